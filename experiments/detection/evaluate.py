"""Evaluates a trained run."""

from pathlib import Path

from experiments.detection.data.config import Split
from experiments.detection.data.datasets import open_data
from experiments.detection.evaluation.results import write_results
from experiments.detection.presets import METRICS
from experiments.detection.task import RUNS, make_evaluator
from experiments.engine.config import check
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import print_metrics
from experiments.engine.text import printable


def evaluate(
    run: Path,
    split: Split,
    results: Path | None,
    folders: DataFolders,
    evaluation: EvaluationConfig,
) -> None:
    """Prints COCO's metrics of a run, and writes its detections.

    Args:
        run: folder of the run.
        split: split of the images; test has no annotated objects, and thus no metrics.
        results: folder for bbox.json and segm.json, in the format of COCO's server; None writes no
            files.
        folders: folders of the data.
        evaluation: choice of the checkpoint, and settings of the evaluation.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: the split is test and ``results`` is None, or the batch size is not a multiple
            of the number of devices.
        DataError: the dataset is missing, or has no such split.
    """
    check(split != "test" or results is not None, "results", "given for the split test", None)
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    config = loaded.config
    data = primary_first(lambda: open_data(config.data, folders))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    evaluator = make_evaluator(config, data, evaluation, split)
    if split == "test":
        assert results is not None
        found = evaluator.results(state)
        if is_primary():
            write_results(results, found, config.model.masks)
        metrics: dict[str, float] = {}
    else:
        metrics = evaluator(state, results)
    if is_primary():
        print(f"step {loaded.step}, {len(data.source(split))} images of {split}:")
        print_metrics(METRICS, metrics)
        if results is not None:
            print(f"detections in {printable(results)}")
