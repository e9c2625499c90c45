import numpy as np
import pytest

from experiments.data.class_colours import class_colour
from experiments.data.classes import UNLABELLED
from experiments.segmentation.prediction.drawing import (
    draw_classes,
    legend_entries,
    paint_classes,
    palette,
    percent,
    shares,
)
from experiments.segmentation.prediction.legend import Entry, draw_legend, font_size, wrapped

NAMES = ("sky", "sea", "sand", "a ship with a name that is far too long for any legend")


def halves(height=60, width=80):
    """A class map with class 1 on the left, class 0 on the right, and class 3 in a corner."""
    classes = np.ones((height, width), np.uint8)
    classes[:, width // 2 :] = 0
    classes[-height // 4 :, -width // 4 :] = 3
    return classes


def grey(height=60, width=80, value=100):
    return np.full((height, width, 3), value, np.uint8)


def holds(drawing, colour):
    return (drawing == colour).all(-1)


def test_pixels_are_tinted_and_edges_are_opaque():
    image, classes = grey(), halves()
    painted = paint_classes(image, classes)
    np.testing.assert_array_equal(image, grey())
    left, right, corner = (np.array(class_colour(number)) for number in (1, 0, 3))
    tinted = np.broadcast_to(50 + left / 2, (60, 38, 3))
    np.testing.assert_allclose(painted[:, :38], tinted, atol=1)
    assert (painted[:, 39] == left).all()
    assert (painted[:45, 40] == right).all()
    assert (painted[:44, 41:] != right).any(-1).all()
    assert (painted[44, 60:] == right).all()
    assert (painted[45, 60:] == corner).all()
    assert (painted[45:, 60] == corner).all()
    assert (painted[47:, 62:] != corner).any(-1).all()


def test_edges_are_wider_in_large_images_and_symmetric():
    classes = np.zeros((1500, 1200), np.uint8)
    classes[:, 600:] = 1
    painted = paint_classes(grey(1500, 1200), classes)
    edge = holds(painted, class_colour(0)) | holds(painted, class_colour(1))
    assert np.flatnonzero(edge[700]).tolist() == list(range(597, 603))
    assert (edge == edge[:1]).all()


def test_unlabelled_pixels_are_black():
    classes = np.full((6, 8), UNLABELLED, np.uint8)
    assert (paint_classes(grey(6, 8), classes, opacity=1) == 0).all()
    np.testing.assert_allclose(paint_classes(grey(6, 8), classes), grey(6, 8, 50), atol=1)
    assert palette()[UNLABELLED].tolist() == [0, 0, 0]
    assert palette()[149].tolist() == list(class_colour(149))


def test_shares_are_sorted_and_leave_out_unlabelled_pixels():
    classes = np.array([[2, 2, 2], [0, 1, UNLABELLED]], np.uint8)
    assert shares([classes]) == [(2, 0.6), (0, 0.2), (1, 0.2)]
    blank = np.full((9, 9), UNLABELLED, np.uint8)
    assert shares([blank]) == []
    # Large and small maps have equal weights.
    both = shares([np.zeros((90, 70), np.uint8), classes])
    assert both == [(0, pytest.approx(0.6)), (2, pytest.approx(0.3)), (1, pytest.approx(0.1))]


def test_small_shares_are_not_shown_as_zero():
    assert [percent(share) for share in (1, 0.3333, 0.001, 0.0009)] == [
        "100.0 %",
        "33.3 %",
        "0.1 %",
        "<0.1 %",
    ]


def test_a_legend_names_the_largest_classes_and_counts_the_others():
    found = shares([halves()])
    entries = legend_entries(found, NAMES, most=1)
    assert entries == [("sea", "50.0 %", class_colour(1)), ("2 more classes", "50.0 %", None)]
    assert legend_entries(found, NAMES, most=2)[-1].name == "1 more class"
    assert [entry.name for entry in legend_entries(found, NAMES)] == [NAMES[1], NAMES[0], NAMES[3]]
    assert {entry.note for entry in legend_entries(found, NAMES, 1, with_shares=False)} == {""}


@pytest.mark.parametrize("size", [(60, 80), (1, 1), (40, 60), (60, 40), (600, 800), (1200, 300)])
def test_the_legend_does_not_hide_the_image(size):
    image, classes = grey(*size), halves(*size)
    drawing = draw_classes(image, classes, NAMES)
    height, width = size
    np.testing.assert_array_equal(drawing[:height, :width], paint_classes(image, classes))
    legend = drawing[:, width:] if height > width else drawing[height:]
    square = font_size(height, width)
    for number, share in shares([classes]):
        assert holds(legend, class_colour(number)).sum() == square**2, share
    assert (legend[:, -1] == 255).all()  # no text is cut off
    assert (legend[-1] == 255).all()
    dark = (legend < 60).all(-1)
    assert dark.sum() > 30 * len(shares([classes]))  # names


def test_entries_are_in_as_many_columns_as_fit():
    entries = [Entry(name, "10.0 %", (255, 0, number)) for number, name in enumerate("abcdef")]
    narrow, wide = draw_legend(entries, 12), draw_legend(entries, 12, width=3 * 150)
    assert wide.shape[1] == 450
    assert wide.shape[0] < narrow.shape[0] / 2
    for legend in (narrow, wide):
        corners = [np.argwhere(holds(legend, entry.colour))[0].tolist() for entry in entries]
        assert len({tuple(corner) for corner in corners}) == 6
        assert corners == sorted(corners, key=lambda corner: corner[::-1])  # down each column
    assert draw_legend([], 12, 50).shape == (1, 50, 3)


def test_long_names_are_cut_off_before_their_note():
    long, longer = (draw_legend([Entry(n * "M", "1.0 %", None)], 12) for n in (40, 400))
    np.testing.assert_array_equal(long, longer)
    assert long.shape[1] < 18 * 12 + 50
    other = draw_legend([Entry(40 * "M", "2.0 %", None)], 12)
    assert (long != other).any()


def test_titles_are_broken_after_spaces_and_hyphens_or_anywhere():
    assert wrapped("short", 15, 300) == ["short"]
    lines = wrapped("upernet-resnet50-carafe seed 0", 15, 130)
    assert lines == ["upernet-resnet50-", "carafe seed 0"]
    assert "".join(wrapped("x" * 99, 15, 60)) == "x" * 99
    assert len(wrapped("x" * 99, 15, 60)) > 9
    assert wrapped("a\nb", 15, 100) == [r"a\nb"]
