"""The sums of a run's evaluation for each image, for intervals over photographs."""

import functools

import numpy as np

from experiments.data.errors import DataError
from experiments.engine.distributed import primary_first
from experiments.engine.evaluation import COUNT, values_of_examples
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import Operation, evaluation_in_training
from experiments.engine.tables.statistics import ExampleSums
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import InpaintingData, evaluation_batches, open_data
from experiments.inpainting.evaluation import measured_images
from experiments.inpainting.fill import make_generator, variables_of


def example_sums(run: LoadedRun[InpaintingConfig], folders: DataFolders) -> ExampleSums:
    """Evaluates a run on its validation images.

    Crops of one photograph are one group. In the other datasets each image is its own group.

    Args:
        run: run that was read for evaluation.
        folders: folders of the data.

    Raises:
        DataError: the dataset is missing or damaged.
    """
    config = run.config
    data = primary_first(lambda: open_data(config.data, folders))
    evaluation = evaluation_in_training(config.training, Operation())
    records, values = values_of_examples(
        functools.partial(measured_images, make_generator(config)),
        variables_of(run.state),
        evaluation_batches(data, config.data, evaluation.batch_size),
        evaluation.workers,
        evaluation.max_unreadable_records,
    )
    sums = {COUNT: np.ones(len(records)), **values}
    numbers = records.tolist()
    if config.data.images is not None or config.data.source == "places365_small":
        return ExampleSums(sums, numbers, [str(number) for number in numbers], "images")
    return ExampleSums(sums, numbers, [_photograph(data, each) for each in numbers], "photographs")


def _photograph(data: InpaintingData, number: int) -> str:
    record = data.validation[number]
    if "photograph" not in record:
        raise DataError(
            f"validation record {number} must have the field 'photograph', got {[*record]}"
        )
    return record["photograph"].decode()
