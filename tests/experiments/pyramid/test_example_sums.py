import numpy as np

from experiments.pyramid.example_sums import metrics_of


def test_every_resample_has_its_own_metrics():
    matrices = np.array([[[4.0, 0], [0, 4]], [[2, 2], [2, 2]], [[0, 0], [0, 3]]])
    found = metrics_of({"whole": matrices, "border": matrices[::-1]})
    np.testing.assert_allclose(found["mIoU"], [1, 1 / 3, 1 / 2])  # a missing class has 0
    np.testing.assert_allclose(found["mIoU_border"], [1 / 2, 1 / 3, 1])
    np.testing.assert_allclose(found["pixel_accuracy"], [1, 1 / 2, 1])
