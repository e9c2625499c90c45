import dataclasses

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.sources import Reassembly
from experiments.engine.evaluation import NonFiniteEvaluationError, UnreadableEvaluationError
from experiments.engine.settings import EvaluationConfig
from experiments.kernel_studies.batches import shuffled_batches
from experiments.kernel_studies.mean_kernels import kernel_sums, mean_kernels
from experiments.kernel_studies.replacement_study import evaluated_images
from experiments.kernel_studies.studied_network import StudiedNetwork, Totals, notes_of, summed

DEVICES = 4


def batch(weight, unreadable=()):
    """Eight images of different values; 0 for those without weight."""
    weight = np.float32(weight)
    numbers = np.arange(8)
    return {
        "image": np.float32(1 + numbers) * weight,
        "weight": weight,
        "record": numbers,
        "unreadable": np.where(np.isin(numbers, unreadable), numbers, -1)[:, None],
    }


def network_on(*batches):
    """A network whose kernels have the value of the image, times its state."""

    def reassemblies(state, share):
        kernels = jnp.broadcast_to(
            (state * share["image"]).reshape(-1, 1, 1, 1), (share["image"].size, 4, 4, 9)
        )
        return (Reassembly(kernels=kernels, size=(4, 4), kernel_size=3, up=1, down=1, name="a"),)

    return StudiedNetwork(
        network_of=lambda state: state,
        reassemblies=reassemblies,
        batches=grain.MapDataset.source(batches),
        inputs=("image",),
        evaluator=lambda adapt, batches: None,
        images=sum(
            int((each["weight"] + (each["unreadable"][:, 0] >= 0)).sum()) for each in batches
        ),
    )


def test_sums_are_over_all_images_with_weight_on_all_devices():
    studied = network_on(batch(np.ones(8)), batch([1, 1, 1, 0, 1, 0, 0, 0], unreadable=[3]))
    states = [np.float32(1), np.float32(2)]
    batches = shuffled_batches(studied.batches, studied.inputs, DEVICES)
    once, twice = summed(studied, kernel_sums, batches, states, EvaluationConfig())
    assert (once.images, once.unreadable) == (12, 1)
    mean = (36 + 1 + 2 + 3 + 5) / 12
    for total, expected in ((once, mean), (twice, 2 * mean)):
        means = mean_kernels(total.sums)["a"]
        np.testing.assert_allclose(means, np.full((1, 1, 9), expected), rtol=1e-6)
    assert notes_of(studied, 2, once)[1:] == [
        "1 images or labels could not be read, and do not count."
    ]


def test_images_whose_label_cannot_be_read_do_not_count_for_metrics():
    totals = Totals(sums={}, images=12, unreadable=1)
    assert evaluated_images(totals, {"mIoU": 0.5, "unreadable": 3.0}) == Totals({}, 10, 3)
    assert evaluated_images(Totals({}, 12, 0), {"mIoU": 0.5}) == Totals({}, 12, 0)


def test_an_image_that_is_left_out_is_noted():
    studied = network_on(batch([1, 0, 0, 0, 0, 0, 0, 0]), batch(np.ones(8)))
    ten = dataclasses.replace(studied, images=10)
    (found,) = summed(studied, kernel_sums, studied.batches, [np.float32(1)], EvaluationConfig())
    assert (found.images, found.unreadable) == (9, 0)
    assert notes_of(ten, 1, found)[1:] == [
        "Images left out because no other image has their size: 1."
    ]


def test_broken_kernels_and_unreadable_images_are_refused():
    studied = network_on(batch([1, 1, 1, 0, 1, 1, 1, 1], unreadable=[3]))
    arguments = studied, kernel_sums, studied.batches
    with pytest.raises(NonFiniteEvaluationError, match="NaN"):
        summed(*arguments, [np.float32(np.nan)], EvaluationConfig())
    none = EvaluationConfig(max_unreadable_records=0)
    with pytest.raises(UnreadableEvaluationError, match=r"\[3\]"):
        summed(*arguments, [np.float32(1)], none)
