"""Evaluates a trained run."""

import dataclasses
from pathlib import Path

from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import Spread, print_tables
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import make_evaluator
from experiments.inpainting.fill import variables_of
from experiments.inpainting.report.tables import bucket_table, metrics_table
from experiments.inpainting.task import RUNS


def evaluate(
    run: Path, images: Path | None, folders: DataFolders, evaluation: EvaluationConfig
) -> None:
    """Prints the metrics of a run on validation images, overall and by the size of the hole.

    Args:
        run: folder of the run.
        images: folder of images that replaces the run's dataset; the validation images among them
            are evaluated.
        folders: folders of the data.
        evaluation: choice of the checkpoint, and settings of the evaluation.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: the batch size is not a multiple of the number of devices.
        DataError: the dataset is missing or damaged.
    """
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    config = loaded.config
    if images is not None:
        config = dataclasses.replace(config, data=config.data.with_images(images))
    data = primary_first(lambda: open_data(config.data, folders))
    evaluator = make_evaluator(config, data, evaluation)
    metrics = evaluator(variables_of(loaded.state))
    if is_primary():
        rows = {run.name: {name: Spread(value) for name, value in metrics.items()}}
        title = f"step {loaded.step}, {len(data.validation)} images"
        print_tables((metrics_table(title, rows), bucket_table("By the size of the hole", rows)))
