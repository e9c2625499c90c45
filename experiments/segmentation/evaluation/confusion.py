"""Confusion matrices, and the metrics of semantic segmentation that follow from them.

A confusion matrix counts the pixels of each class, in rows, by their predicted class, in columns.
The matrix of several images is the sum of their matrices, exactly.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64, Num, UInt8

from experiments.data.classes import UNLABELLED
from experiments.segmentation.evaluation.metric_names import (
    MEAN_IOU,
    MEAN_IOU_OF_PRESENT,
    PIXEL_ACCURACY,
    iou_name,
)


def confusion_matrix(
    label: UInt8[np.ndarray, "height width"],
    predicted: UInt8[np.ndarray, "height width"],
    classes: int,
) -> Int64[np.ndarray, "classes classes"]:
    """Counts the pixels of an image by their class and their predicted class.

    Args:
        label: class of each pixel, ``[H, W]``; pixels with
            :data:`experiments.data.classes.UNLABELLED` are not counted.
        predicted: predicted class of each pixel, ``[H, W]``.
        classes: number of classes.

    Returns:
        Matrix whose entry ``[i, j]`` is the number of pixels of class i that are predicted as j.

    Raises:
        ValueError: the shapes differ, or a class is not less than ``classes``.
    """
    if label.shape != predicted.shape:
        raise ValueError(f"predicted must have the shape {label.shape}, got {predicted.shape}")
    labelled = label != UNLABELLED
    label, predicted = label[labelled], predicted[labelled]
    for name, numbers in (("label", label), ("predicted", predicted)):
        if numbers.size and numbers.max() >= classes:
            raise ValueError(f"{name} must be less than {classes} (classes), got {numbers.max()}")
    pairs = label.astype(np.intp) * classes + predicted
    counts = np.bincount(pairs, minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.int64)


def intersection_over_union(
    matrix: Num[np.ndarray, "*batch classes classes"],
) -> Float[np.ndarray, "*batch classes"]:
    """Computes the IoU of each class; a class that is neither labelled nor predicted has 0.

    Args:
        matrix: confusion matrices, ``[..., C, C]``.
    """
    intersection = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(axis=-2) + matrix.sum(axis=-1) - intersection
    # The official implementation of UperNet adds 1e-10 to the union.
    found: np.ndarray = intersection / (union + 1e-10)
    return found


def segmentation_metrics(
    matrix: Int64[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> dict[str, float]:
    """Computes the metrics of a confusion matrix.

    Args:
        matrix: confusion matrix of all images.
        class_names: name of each class.

    Returns:
        Metrics in [0, 1]; undefined metrics are left out.

        - ``mIoU``, the mean over all classes of intersection / union. A class that is neither
          labelled nor predicted counts as 0, as in the official implementation of UperNet.
        - ``mIoU_present``, the mean without these classes, as in mmseg; undefined if no class is
          labelled or predicted.
        - ``pixel_accuracy``, the share of labelled pixels whose predicted class is right;
          undefined if there are no labelled pixels.
        - ``IoU/<class>`` of each class whose union is not empty.
    """
    shares = intersection_over_union(matrix)
    # The classes that are labelled or predicted.
    present = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    metrics = {MEAN_IOU: float(shares.mean())}
    if present.any():
        metrics[MEAN_IOU_OF_PRESENT] = float(shares[present].mean())
    if pixels := int(matrix.sum()):
        metrics[PIXEL_ACCURACY] = int(matrix.trace()) / pixels
    details = {
        iou_name(name): float(share)
        for name, share, occurs in zip(class_names, shares, present, strict=True)
        if occurs
    }
    return {**metrics, **details}
