import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.detection_operations import (
    Sizes,
    disagreement,
    loop_nms,
    print_mask_targets,
    print_nms,
    random_boxes,
    through_all_taps,
)
from experiments.detection.model.nms import nms
from experiments.detection.model.roi_align import assign_levels, roi_align
from tests.experiments.benchmarks.markdown_tables import tables


def test_nms_keeps_the_same_boxes_as_the_loop():
    rng = np.random.default_rng(0)
    boxes, scores = random_boxes(rng, 500), rng.random(500, np.float32)
    expected = loop_nms(boxes, scores, 0.7)
    assert 1 < expected.sum() < 500
    np.testing.assert_array_equal(jax.jit(nms)(boxes, scores, 0.7), expected)


def test_gathering_all_taps_at_once_gives_the_same_result():
    shapes = [(20, 34), (10, 17), (5, 9), (3, 5)]
    rng = np.random.default_rng(0)
    pyramid = [jnp.asarray(rng.normal(size=(1, *shape, 3)), jnp.float32) for shape in shapes]
    boxes = jnp.asarray(random_boxes(rng, 30))[None] / 10
    levels = assign_levels(10 * boxes)
    found = jax.jit(lambda *maps: roi_align(maps, (4, 8, 16, 32), boxes, levels, 7))(*pyramid)
    expected = jax.jit(lambda *maps: through_all_taps(maps, boxes, levels, 7, 2))(*pyramid)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_small_masks_differ_little_from_bitmaps():
    assert 0 < disagreement(56, 8) < 0.02


def test_tables_are_filled(capsys):
    sizes = Sizes(boxes=(20, 40), slots=2, objects=2, mask_rois=4, compared=8)
    print_nms(sizes, rounds=1)
    print_mask_targets(sizes, rounds=1)
    (_, *nms_rows), (_, *mask_rows) = tables(capsys.readouterr().out)
    assert [row[0] for row in nms_rows] == ["20", "40"]
    assert [row[0] for row in mask_rows] == [
        *(f"{side}x{side} masks of the boxes" for side in (28, 56, 112)),
        "800x1344 bitmaps of the input",
    ]  # fmt: skip
