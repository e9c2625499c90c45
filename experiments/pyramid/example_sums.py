"""The sums of a run's evaluation for each scene, for intervals over scenes."""

from collections.abc import Mapping

import numpy as np

from experiments.engine.distributed import primary_first
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import Operation, evaluation_in_training
from experiments.engine.tables.statistics import ExampleSums, Totals
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.features import open_features
from experiments.pyramid.metric_names import MEAN_IOU_OF_BORDERS
from experiments.pyramid.task import make_evaluator
from experiments.segmentation.evaluation.confusion import intersection_over_union
from experiments.segmentation.evaluation.metric_names import MEAN_IOU, PIXEL_ACCURACY

_WHOLE, _BORDER = "whole", "border"
_COMPOSITIONS = (
    "Scenes are composed from the same 9 photographs and 58 objects, so the interval shows other "
    "compositions, not other photographs or objects."
)


def example_sums(run: LoadedRun[PyramidConfig], folders: DataFolders) -> ExampleSums:
    """Computes the confusion matrices of each validation scene; each scene is a group.

    Scenes share photographs and objects with other scenes, so intervals over scenes show how
    metrics vary on other compositions of the same photographs and objects.

    Args:
        run: run that was read for evaluation.
        folders: folders of data.

    Raises:
        DataError: the files from which scenes are composed are missing or damaged.
        WeightsError: the weights of the backbone are missing or damaged.
    """
    features = primary_first(lambda: open_features(run.config.scenes, folders))
    evaluation = evaluation_in_training(run.config.training, Operation())
    state = {name: run.state[name] for name in ("params", "model_state")}
    matrices = make_evaluator(run.config, features, evaluation).matrices(state)
    sums = {
        _WHOLE: matrices.whole.astype(np.float64),
        _BORDER: matrices.border.astype(np.float64),
    }
    numbers = range(len(matrices.whole))
    return ExampleSums(sums, numbers, [str(number) for number in numbers], "scenes", _COMPOSITIONS)


def metrics_of(totals: Totals) -> Mapping[str, np.ndarray]:
    """Computes the metrics of an evaluation from sums over scenes.

    Args:
        totals: sums of the confusion matrices, each ``[B, C, C]``.

    Returns:
        Mean IoU, its value near borders, and pixel accuracy, each ``[B]``.
    """
    whole, border = totals[_WHOLE], totals[_BORDER]
    right = np.trace(whole, axis1=-2, axis2=-1)
    return {
        MEAN_IOU: intersection_over_union(whole).mean(axis=-1),
        MEAN_IOU_OF_BORDERS: intersection_over_union(border).mean(axis=-1),
        PIXEL_ACCURACY: right / whole.sum(axis=(-2, -1)),
    }
