import numpy as np
import pytest

from experiments.data.class_colours import class_colour
from experiments.data.classes import UNLABELLED
from experiments.segmentation.prediction.figure import Example, draw_examples

NAMES = ("sky", "sea", "sand")


def constant(height, width, number):
    return np.full((height, width), number, np.uint8)


def example(height=30, width=40, label=2, colour=(200, 0, 0)):
    image = np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))
    maps = {"bilinear": constant(height, width, 0), "carafe": constant(height, width, 1)}
    return Example(image, maps, None if label is None else constant(height, width, label))


def tint(number, colour=(200, 0, 0)):
    return np.round(0.75 * np.array(class_colour(number)) + 0.25 * np.array(colour))


def columns_of(figure, colour):
    """The first and last column of the panels with a colour, in thousandths of the width."""
    found = (abs(figure.astype(int) - np.array(colour)).max(-1) <= 2).sum(0) > 60
    inside = np.flatnonzero(found)
    return (inside[0] / figure.shape[1], inside[-1] / figure.shape[1]) if inside.size else None


def test_image_networks_and_ground_truth_are_in_columns():
    figure = draw_examples([example(), example(60, 20)], NAMES)
    assert figure.dtype == np.uint8
    wanted = [(200, 0, 0), tint(0), tint(1), tint(2)]
    for number, colour in enumerate(wanted):
        first, last = columns_of(figure, colour)
        assert number / 4 <= first + 0.01
        assert (number + 1) / 4 >= last
    titles = figure[:20]
    for number in range(4):
        part = titles[:, number * figure.shape[1] // 4 : (number + 1) * figure.shape[1] // 4]
        assert (part.max(-1) < 80).sum() > 50


def test_examples_without_ground_truth_leave_its_column_empty():
    label = draw_examples([example(), example(label=None)], NAMES)
    rows = np.flatnonzero((label[:, 0] == [200, 0, 0]).all(-1))
    assert (label[rows[-1], -300:] == 255).all()
    assert not (label[rows[0], -300:] == 255).all()
    without = draw_examples([example(label=None)], NAMES)
    assert without.shape[1] < label.shape[1]
    assert columns_of(without, tint(2)) is None


def test_the_legend_has_the_classes_of_all_rows_and_unlabelled_pixels():
    def legend(*examples):
        figure = draw_examples(examples, NAMES)
        last = np.flatnonzero((figure[:, 0] != 255).any(-1))[-1]
        return figure[last + 1 :]

    def squares(legend, colour):
        return (legend == colour).all(-1).sum() // 15**2

    shown = legend(example(label=0), example(label=UNLABELLED))
    assert [squares(shown, class_colour(number)) for number in range(3)] == [1, 1, 0]
    assert squares(shown, (0, 0, 0)) == 1
    assert squares(legend(example()), (0, 0, 0)) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2000, 3000), (50, 49)])
def test_images_of_any_size_are_shown_completely(size):
    figure = draw_examples([example(*size, colour=(0, 0, 200))], NAMES)
    assert figure.shape[0] < 700
    panel = (figure[:, :320] == [0, 0, 200]).all(-1)
    height, width = (np.flatnonzero(panel.any(axis)).size for axis in (1, 0))
    assert max(height / width, width / height) == pytest.approx(
        min(max(size) / min(size), max(height, width)), rel=0.05
    )


def test_class_maps_are_not_averaged_when_they_are_scaled():
    classes = np.array([[0, 2], [2, 0]] * 500, np.uint8)
    noise = np.random.default_rng(0).permutation(classes.ravel()).reshape(50, 40)
    pixels = np.zeros((50, 40, 3), np.uint8)
    figure = draw_examples([Example(pixels, {"a": noise}, None)], NAMES)
    between = tint(1, (0, 0, 0))
    panel = figure[25:400, 326:]
    assert not (abs(panel - between).max(-1) <= 2).any()
