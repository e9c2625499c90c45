"""The sums of a run's evaluation for each image, for intervals over groups of images."""

import functools

import numpy as np

from experiments.classification.batches import ClassificationData, evaluation_batches, open_data
from experiments.classification.configs import ClassificationConfig
from experiments.classification.presets import METRICS
from experiments.classification.task import image_metrics, make_model
from experiments.data.errors import DataError
from experiments.engine.distributed import primary_first
from experiments.engine.evaluation import COUNT, values_of_examples
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import Operation, evaluation_in_training
from experiments.engine.tables.statistics import ExampleSums

_SHARED_BACKGROUNDS = "Images of different objects may share a photograph as background."


def example_sums(run: LoadedRun[ClassificationConfig], folders: DataFolders) -> ExampleSums:
    """Evaluates a run on its validation images.

    Images of one cut-out object are one group. In the other datasets each image is its own group.

    Args:
        run: run that was read for evaluation.
        folders: folders of data.

    Raises:
        DataError: the dataset is missing or invalid.
    """
    config = run.config
    data = primary_first(lambda: open_data(config.data, folders))
    evaluation = evaluation_in_training(config.training, Operation())
    records, values = values_of_examples(
        functools.partial(image_metrics, make_model(config)),
        {name: run.state[name] for name in ("params", "model_state")},
        evaluation_batches(data, config.data, evaluation.batch_size),
        evaluation.workers,
        evaluation.max_unreadable_records,
    )
    sums = {metric.name: values[metric.name] for metric in METRICS}
    sums[COUNT] = np.ones(len(records))
    numbers = records.tolist()
    if config.data.source != "cutouts":
        return ExampleSums(sums, numbers, [str(number) for number in numbers], "images")
    groups = [_cutout(data, number) for number in numbers]
    return ExampleSums(sums, numbers, groups, "cut-out objects", _SHARED_BACKGROUNDS)


def _cutout(data: ClassificationData, number: int) -> str:
    record = data.validation[number]
    if "cutout" not in record:
        raise DataError(f"validation record {number} must have the field 'cutout', got {[*record]}")
    return record["cutout"].decode()
