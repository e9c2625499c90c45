"""Command line: `python -m experiments.detection --help`."""

import functools
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments.data.classes import num_classes
from experiments.detection.data.datasets import Split, open_data
from experiments.detection.evaluation.results import write_results
from experiments.detection.prediction.predict import predict as predict_files
from experiments.detection.prediction.predict import show
from experiments.detection.spec import SPEC
from experiments.detection.task import RUNS, detect, make_evaluator, make_model, read_categories
from experiments.engine.command_line import run_command
from experiments.engine.commands import ALONE, BARE, DATA, FOLDERS, Commands, task_commands
from experiments.engine.config import check
from experiments.engine.distributed import Distributed, is_primary, primary_first, start
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.predictions import report
from experiments.engine.settings import CheckpointChoice, EvaluationConfig
from experiments.engine.tables import print_metrics
from experiments.engine.text import printable

EVALUATION = EvaluationConfig()


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    split: Split = "validation",
    results: Path | None = None,
    folders: Annotated[DataFolders, BARE] = DATA,
    evaluation: Annotated[EvaluationConfig, BARE] = EVALUATION,
    distributed: Distributed = ALONE,
) -> None:
    """Prints COCO's metrics of a run, and writes its detections.

    Args:
        run: folder of the run.
        split: of the images; those of test, which is COCO's test-dev, are for its server alone.
        results: folder for bbox.json and segm.json, as COCO's server takes them.
        folders: where the data lie.
        evaluation: of which checkpoint, and how.
        distributed: the other processes, if any.
    """
    start(distributed)
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
        print_metrics(SPEC.metrics, metrics)
        if results is not None:
            print(f"detections in {printable(results)}")


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
    output: Path = FOLDERS.runs / SPEC.name / "predictions",
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Draws the boxes and masks of the objects in images, and writes them as JSON.

    Args:
        images: files that Pillow reads, of any size.
        run: folder of a trained run.
        output: folder for the drawings, of what has a score of 0.5 or more, and for
            detections.json, which has all.
        checkpoint: the newest, or the one with the highest AP so far.
    """
    check(bool(images), "images", "one or more", list(images))
    loaded = RUNS.load(run, checkpoint)
    categories = read_categories(run, num_classes(loaded.config.data.source))
    # On the device once, rather than with every picture.
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    infer = functools.partial(jax.jit(functools.partial(detect, model)), state)
    predictions = predict_files(images, output, infer, loaded.config.data, categories)
    report(predictions, functools.partial(show, dict(categories)))


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {**task_commands(SPEC), "evaluate": evaluate, "predict": predict}
    run_command(SPEC.name, commands)


if __name__ == "__main__":
    main()
