import functools

import jax
import numpy as np
import pytest

from tests.experiments.detection.losses.batches import ROWS, make_batch


@pytest.mark.slow
def test_objects_without_area_count_for_nothing(loss):
    batch = make_batch(6, 6)
    batch["boxes"][:, 0] = [10, 10, 10, 30]
    batch["boxes"][:, 1] = [20, 30, 40, 30]
    batch["boxes"][:, 2] = [20, 20, 20, 20]
    without = batch | {"labels": batch["labels"].copy()}
    without["labels"][:, :3] = -1
    found, expected = loss(batch)[0].metrics, loss(without)[0].metrics
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_the_loss_does_not_depend_on_how_a_batch_is_shared(loss):
    """An image has the same share in it beside any other, in any place, with any key."""
    batch = make_batch(5, 8, crowds=1)

    def images(*chosen):
        return loss({name: x[list(chosen)] for name, x in batch.items()}, seed=sum(chosen))

    both, swapped, first, second = images(0, 1), images(1, 0), images(0, 0), images(1, 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, swapped, both)
    jax.tree.map(lambda a, b, c: close((a + b) / 2, c), first, second, both)


def test_neither_rows_nor_padding_matter(loss):
    batch = make_batch(5, 8, crowds=1)
    before, _ = loss(batch)
    order = np.random.default_rng(0).permutation(ROWS)
    rows = ("boxes", "labels", "crowd", "masks")
    moved = batch | {name: batch[name][:, order] for name in rows}
    moved["image"] = batch["image"].copy()
    moved["image"][1, 48:] = 200
    moved["image"][1, :, 60:] = 7
    # What is no object may be anything.
    nothing = moved["labels"] < 0
    moved["boxes"][nothing] = [3, 4, 30, 40]
    moved["crowd"][nothing] = True
    after, _ = loss(moved)
    for name, value in before.metrics.items():
        np.testing.assert_allclose(after.metrics[name], value, rtol=1e-4, err_msg=name)
