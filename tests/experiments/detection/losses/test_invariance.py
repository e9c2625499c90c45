import functools

import jax
import numpy as np
import pytest

from tests.experiments.detection.losses.batches import ROWS, make_batch


@pytest.mark.slow
def test_objects_without_area_are_ignored(loss):
    batch = make_batch(6, 6)
    batch["boxes"][:, 0] = [10, 10, 10, 30]
    batch["boxes"][:, 1] = [20, 30, 40, 30]
    batch["boxes"][:, 2] = [20, 20, 20, 20]
    without = batch | {"labels": batch["labels"].copy()}
    without["labels"][:, :3] = -1
    found, expected = loss(batch)[0].metrics, loss(without)[0].metrics
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_loss_of_an_image_does_not_depend_on_the_other_images(loss):
    """The other image, the order of the images and the key have no influence."""
    batch = make_batch(5, 8, crowds=1)

    def images(*chosen):
        return loss({name: x[list(chosen)] for name, x in batch.items()}, seed=sum(chosen))

    both, swapped, first, second = images(0, 1), images(1, 0), images(0, 0), images(1, 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, swapped, both)
    jax.tree.map(lambda a, b, c: close((a + b) / 2, c), first, second, both)


@pytest.mark.slow
def test_padding_of_objects_and_images_has_no_influence(loss):
    batch = make_batch(5, 8, crowds=1)
    before, _ = loss(batch)
    order = np.random.default_rng(0).permutation(ROWS)
    rows = ("boxes", "labels", "crowd", "masks")
    moved = batch | {name: batch[name][:, order] for name in rows}
    moved["image"] = batch["image"].copy()
    moved["image"][1, 48:] = 200
    moved["image"][1, :, 60:] = 7
    # Rows of padding may have any values.
    nothing = moved["labels"] < 0
    moved["boxes"][nothing] = [3, 4, 30, 40]
    moved["crowd"][nothing] = True
    after, _ = loss(moved)
    for name, value in before.metrics.items():
        np.testing.assert_allclose(after.metrics[name], value, rtol=1e-4, err_msg=name)
