import itertools

import numpy as np
import pytest

from experiments.data.class_colours import class_colour
from experiments.detection.evaluation.masks import encode_mask
from experiments.detection.prediction.drawing import draw_detections

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = {1: "person", 90: "brush"}
HEIGHT, WIDTH = 120, 200


def image(value=100):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def result(bbox, category_id=1, score=0.9, mask=None):
    found = {"image_id": 0, "category_id": category_id, "bbox": list(map(float, bbox))}
    found["score"] = score
    if mask is not None:
        found["segmentation"] = encode_mask(mask)
    return found


def changed(drawn, before):
    rows, columns = np.nonzero((drawn != before).any(-1))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def luminance(colour):
    return float(np.dot((np.array(colour) / 255) ** 2.2, [0.2126, 0.7152, 0.0722]))


def test_without_detections_the_image_is_unchanged():
    drawn = draw_detections(image(), [], NAMES)
    np.testing.assert_array_equal(drawn, image())


def test_a_box_is_outlined_in_its_colour_and_its_inside_is_unchanged():
    before = image()
    drawn = draw_detections(before, [result([40, 50, 60, 30])], NAMES)
    np.testing.assert_array_equal(before, image())
    colour = class_colour(1)
    for y, x in [(50, 70), (79, 70), (65, 40), (65, 99)]:
        assert tuple(drawn[y, x]) == colour
    for y, x in [(80, 70), (65, 39), (65, 100)]:  # the name is above
        assert tuple(drawn[y, x]) in [(0, 0, 0), (255, 255, 255)]
    assert (drawn[53:77, 43:97] == 100).all()
    top, bottom, left, right = changed(drawn, before)
    assert (bottom, left) == (81, 39)
    assert right >= 101
    assert top < 50 - 8  # the name


def test_the_size_of_a_drawn_box_does_not_depend_on_its_position():
    for left in (40, 40.25, 40.5, 41.5):
        drawn = draw_detections(image(), [result([left, left, 20, 30])], NAMES)
        colour = (drawn == class_colour(1)).all(-1)
        assert colour[60].any()
        columns, rows = np.flatnonzero(colour[60]), np.flatnonzero(colour[:, 50])
        assert (columns[0], columns[-1] + 1 - columns[0]) == (int(left + 0.5), 20)
        assert rows[-1] + 1 == int(left + 0.5) + 30


def test_masks_are_translucent_with_an_outline():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:90, 50:90] = 1
    drawn = draw_detections(image(), [result([40, 50, 60, 50], mask=mask)], NAMES)
    colour = np.array(class_colour(1))
    inner = drawn[65:85, 55:85].reshape(-1, 3).astype(float)
    np.testing.assert_allclose(inner, np.broadcast_to(0.55 * 100 + 0.45 * colour, (600, 3)), atol=1)
    assert (drawn[60, 50:90] == colour).all()
    assert (drawn[89, 50:90] == colour).all()
    assert (drawn[60:90, 50] == colour).all()
    assert (drawn[60:90, 89] == colour).all()
    assert (drawn[59, 50:90] == 100).all()
    assert (drawn[75, 48:50] == 100).all()


def test_masks_have_no_outline_at_the_border_of_the_image():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:, 150:] = 1
    colour = class_colour(1)
    drawn = draw_detections(image(), [result([0, 0, 9, 9], mask=mask)], NAMES)
    assert (drawn[60, 150:] == colour).all()
    assert (drawn[60:, 150] == colour).all()
    assert not (drawn[61:, 151:] == colour).all(-1).any()


def test_an_empty_mask_and_boxes_at_and_beyond_the_borders_are_drawn():
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    full = empty + 1
    results = [
        result([0, 0, WIDTH, HEIGHT], mask=full),
        result([WIDTH, HEIGHT, 0, 0], mask=empty),
        result([190, 0, 10, 120], 90),
        result([3.4, 3.4, 0.1, 0.1]),
    ]
    for value in (0, 255):
        assert draw_detections(image(value), results, NAMES).shape == (HEIGHT, WIDTH, 3)
    tiny = draw_detections(image()[:1, :1], [result([0, 0, 1, 1])], NAMES)
    assert tiny.shape == (1, 1, 3)


def test_names_do_not_hide_each_other():
    detections = [result([20, 60, 50, 40]), result([20, 60, 50, 40], 90, score=0.8)]
    both = draw_detections(image(), detections, NAMES)
    boxes = 2 * (50 + 40)
    for detection in detections:
        colour = class_colour(detection["category_id"])
        alone = draw_detections(image(), [detection], NAMES)
        shown, of_both = ((drawn == colour).all(-1).sum() for drawn in (alone, both))
        assert of_both > shown - 2 * boxes  # one box is drawn under the other box and a name
        assert shown > 3 * boxes


def test_colours_are_stable_and_distinct_and_names_are_legible_on_them():
    assert class_colour(1) == class_colour(1)
    colours = [class_colour(category_id) for category_id in range(1, 91)]
    assert len(set(colours)) == 90
    for one, other in itertools.pairwise(colours):
        assert np.abs(np.subtract(one, other)).sum() > 150
    drawn_in = set()
    for category_id, colour in enumerate(colours, 1):
        light = luminance(colour) + 0.05
        better = 255 if 1.05 / light > light / 0.05 else 0
        assert max(1.05 / light, light / 0.05) > 4.5  # WCAG's minimum for text
        drawn = draw_detections(
            image(), [result([20, 60, 50, 40], category_id)], {category_id: "x"}
        )
        assert (drawn == better).all(-1).any()
        assert not (drawn == 255 - better).all(-1).any()
        drawn_in.add(better)
    assert drawn_in == {0, 255}
