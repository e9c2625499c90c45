"""Evaluates a trained run."""

from pathlib import Path

from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import Table, print_metrics, print_tables
from experiments.pyramid.features import Split, open_features
from experiments.pyramid.presets import METRICS
from experiments.pyramid.task import RUNS, make_evaluator
from experiments.segmentation.evaluation.metric_names import iou_name


def evaluate(run: Path, split: Split, folders: DataFolders, evaluation: EvaluationConfig) -> None:
    """Prints mean IoU and pixel accuracy of a run, and the IoU of each class.

    Args:
        run: folder of the run.
        split: split whose scenes are evaluated.
        folders: folders of data.
        evaluation: choice of the checkpoint, batch size and workers.

    Raises:
        CheckpointError: ``run`` holds no run of this task, or it cannot be read.
        ConfigError: the devices cannot share a batch equally.
        DataError: the files from which scenes are composed are missing or damaged.
        WeightsError: the weights of the backbone are missing or damaged.
    """
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    features = primary_first(lambda: open_features(loaded.config.scenes, folders))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    metrics = make_evaluator(loaded.config, features, evaluation, split)(state)
    if is_primary():
        print(f"step {loaded.step}, {features.count(split)} scenes of {split}:")
        ious = {name: metrics.pop(iou_name(name), None) for name in features.class_names}
        print_metrics(METRICS, metrics)
        rows = tuple(
            (name, "absent" if iou is None else f"{100 * iou:.2f}") for name, iou in ious.items()
        )
        print_tables([Table("IoU of each class", ("class", "IoU, %"), rows)])
