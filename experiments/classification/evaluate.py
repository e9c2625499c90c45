"""Evaluates a trained run."""

from pathlib import Path

from experiments.classification.batches import open_data
from experiments.classification.presets import METRICS
from experiments.classification.task import RUNS, make_evaluator
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import print_metrics


def evaluate(run: Path, folders: DataFolders, evaluation: EvaluationConfig) -> None:
    """Prints top-1 and top-5 accuracy of a run on its validation images.

    Args:
        run: folder of the run.
        folders: folders of data.
        evaluation: choice of the checkpoint, and settings of the evaluation.

    Raises:
        CheckpointError: ``run`` holds no run of this task, or it cannot be read.
        ConfigError: the devices cannot share a batch equally.
        DataError: the dataset is missing or invalid.
    """
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    data = primary_first(lambda: open_data(loaded.config.data, folders))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    evaluator = make_evaluator(loaded.config, data, evaluation)
    metrics = evaluator(state)
    if is_primary():
        print(f"step {loaded.step}, {len(data.validation)} images:")
        print_metrics(METRICS, metrics)
