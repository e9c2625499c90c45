"""Evaluates a trained run."""

from pathlib import Path

from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import Table, print_metrics, print_tables
from experiments.segmentation.data.config import Split
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.data.shapes import check_scales
from experiments.segmentation.evaluation.metric_names import iou_name
from experiments.segmentation.presets import METRICS
from experiments.segmentation.task import RUNS, make_evaluator


def evaluate(
    run: Path,
    split: Split,
    scales: tuple[float, ...],
    flip: bool,
    folders: DataFolders,
    evaluation: EvaluationConfig,
) -> None:
    """Prints mean IoU and pixel accuracy of a run, and the IoU of each class.

    Args:
        run: folder of the run.
        split: split whose images are evaluated.
        scales: factors of the size at which images are segmented; the probabilities of all sizes
            are averaged.
        flip: whether the probabilities of the mirrored images are averaged as well.
        folders: folders of the data.
        evaluation: choice of the checkpoint, and settings of the evaluation.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: the devices cannot share a batch equally, or a scale is not positive.
        DataError: the dataset is missing or damaged.
    """
    check_scales(scales)
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    config = loaded.config
    data = primary_first(lambda: open_data(config.data, folders))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    metrics = make_evaluator(config, data, evaluation, split, scales, flip)(state)
    if is_primary():
        print(f"step {loaded.step}, {len(data.source(split))} images of {split}:")
        ious = {name: metrics.pop(iou_name(name), None) for name in data.class_names}
        print_metrics(METRICS, metrics)
        rows = tuple(
            (name, "absent" if iou is None else f"{100 * iou:.2f}") for name, iou in ious.items()
        )
        print_tables([Table("IoU of each class", ("class", "IoU, %"), rows)])
