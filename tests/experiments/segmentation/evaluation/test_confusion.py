import numpy as np
import pytest

from experiments.data.classes import UNLABELLED
from experiments.segmentation.evaluation.confusion import confusion_matrix, segmentation_metrics

NAMES = ("sky", "sea", "sand", "ship")


def random_maps(classes, seed=0, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape, np.uint8)
    label[rng.random(shape) < 0.2] = UNLABELLED
    return label, rng.integers(0, classes, shape, np.uint8)


def counted(label, predicted, classes):
    matrix = np.zeros((classes, classes), np.int64)
    for i, j in zip(label.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if i != UNLABELLED:
            matrix[i, j] += 1
    return matrix


@pytest.mark.parametrize("classes", [1, 4, 150, 255])
def test_pixels_are_counted_by_class_and_predicted_class(classes):
    label, predicted = random_maps(classes)
    matrix = confusion_matrix(label, predicted, classes)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, counted(label, predicted, classes))


def test_an_image_without_labels_counts_nothing():
    label, predicted = random_maps(4)
    matrix = confusion_matrix(np.full_like(label, UNLABELLED), predicted, 4)
    np.testing.assert_array_equal(matrix, np.zeros((4, 4)))


def test_wrong_shapes_and_classes_are_refused_by_name():
    label, predicted = random_maps(4)
    with pytest.raises(ValueError, match=r"predicted .*\(23, 31\).*\(22, 31\)"):
        confusion_matrix(label, predicted[1:], 4)
    with pytest.raises(ValueError, match=r"label .* 3 .*got 3"):
        confusion_matrix(label, predicted % 3, 3)
    with pytest.raises(ValueError, match=r"predicted .* 3 .*got 3"):
        confusion_matrix(label % 3, predicted, 3)


def test_metrics_are_those_of_the_sets_of_pixels():
    label, predicted = random_maps(4)
    predicted[:10] = label[:10] % 4
    metrics = segmentation_metrics(counted(label, predicted, 4), NAMES)
    labelled = label != UNLABELLED
    ious = []
    for number, name in enumerate(NAMES):
        mine, truth = (labelled & (each == number) for each in (predicted, label))
        ious.append((mine & truth).sum() / (mine | truth).sum())
        assert metrics.pop(f"IoU/{name}") == pytest.approx(ious[-1], rel=1e-12)
    assert metrics == {
        "mIoU": pytest.approx(np.mean(ious), rel=1e-9),
        "mIoU_present": pytest.approx(np.mean(ious), rel=1e-12),
        "pixel_accuracy": pytest.approx((label == predicted)[labelled].mean(), rel=1e-12),
    }


def test_a_class_without_pixels_counts_as_0_or_not_at_all():
    matrix = np.diag([5, 0, 3, 0])
    matrix[0, 3] = 5  # "ship" is predicted, but has no pixels; "sea" is absent
    metrics = segmentation_metrics(matrix, NAMES)
    assert metrics == pytest.approx(
        {
            "mIoU": (0.5 + 0 + 1 + 0) / 4,
            "mIoU_present": (0.5 + 1 + 0) / 3,
            "pixel_accuracy": 8 / 13,
            "IoU/sky": 0.5,
            "IoU/sand": 1,
            "IoU/ship": 0,
        }
    )


def test_without_labelled_pixels_only_the_mean_over_all_classes_is_defined():
    assert segmentation_metrics(np.zeros((4, 4), np.int64), NAMES) == {"mIoU": 0}


def test_counts_beyond_the_precision_of_floats_are_exact():
    matrix = np.diag([2**53 + 1, 0, 0, 0])
    assert segmentation_metrics(matrix, NAMES)["pixel_accuracy"] == 1
    matrix[0, 1] = 2**54
    assert segmentation_metrics(matrix, NAMES)["IoU/sky"] == pytest.approx(1 / 3)
