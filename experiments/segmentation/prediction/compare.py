"""Compares runs on the same images in tables like Table 8 and in a figure like Fig. 7."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.label_maps import decode_label
from experiments.data.picture_outputs import PictureOutputs
from experiments.data.pictures import open_picture, to_rgb
from experiments.data.record_images import decode_image
from experiments.data.records import RecordError, Source, read_record
from experiments.engine.config import ConfigError, check, differences
from experiments.engine.errors import InputError
from experiments.engine.folders import DataFolders
from experiments.engine.json_files import write_json
from experiments.engine.parallel import check_batch_size
from experiments.engine.runs import LoadedRun, names_of
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import Table, print_tables, save_tables
from experiments.engine.text import encodable
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.data.shapes import check_scales
from experiments.segmentation.evaluation.metric_names import iou_name
from experiments.segmentation.prediction.figure import Example, draw_examples
from experiments.segmentation.prediction.predict import (
    make_infer,
    segment_picture,
)
from experiments.segmentation.presets import METRICS
from experiments.segmentation.task import RUNS, make_evaluator

# An image, its label map if it is known, and a prefix for errors.
_Shown = tuple[Image.Image, UInt8[np.ndarray, "_h _w"] | None, str]

EVALUATION = EvaluationConfig()
FIGURE = "classes.png"

# Fields of the data that select the images; the other fields change only how networks see them.
_SELECTING = ("source", "own", "scenes")


def check_same_images(configs: Mapping[str, SegmentationConfig]) -> None:
    """Checks that runs have the same classes and validation images.

    Args:
        configs: config of each run, by the run's name; at least one.

    Raises:
        ConfigError: two runs have different datasets; the message names the fields. A user's own
            files may have moved.
    """
    first, *others = configs
    for name in others:
        changed = differences(_selection(configs[first]), _selection(configs[name]), "data.")
        if changed:
            raise ConfigError(
                f"expected runs on the same images, got {first} and {name} with "
                f"{'; '.join(changed)}"
            )


def _selection(config: SegmentationConfig) -> DataConfig:
    """The fields of the data that select the images; all others have their defaults."""
    data = config.data
    own = data.own
    if own.digest is not None:  # the same files may be in another folder
        own = dataclasses.replace(own, images="images", labels="labels", class_list="class_list")
    return dataclasses.replace(
        DataConfig(), **{**{name: getattr(data, name) for name in _SELECTING}, "own": own}
    )


def compare(
    runs: Sequence[Path],
    output: Path,
    folders: DataFolders,
    examples: int = 5,
    evaluation: EvaluationConfig = EVALUATION,
    images: Sequence[Path] = (),
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> None:
    """Evaluates runs on the same images, and draws their classes.

    Writes ``compare.json`` and ``table.md`` with the metrics, and ``classes.png``.

    Args:
        runs: folders of at least two runs on the same data; their networks may differ.
        output: folder of the results.
        folders: folders of the data.
        examples: number of validation images in the figure.
        evaluation: choice of the checkpoints, and settings of the evaluation.
        images: image files that the figure shows below the validation images, without ground truth.
        scales: factors of the size of images in evaluation; the views are averaged.
        flip: whether the mirrored images are further views.

    Raises:
        ConfigError: the runs have different data, there are fewer than two, there is nothing to
            draw, a scale is not positive, or the batch size is not a multiple of the number of
            devices.
        CheckpointError: a run cannot be read.
        InputError: one of ``images`` cannot be read or is a file of the results, or a network gives
            NaN or infinity for a picture.
    """
    check(len(runs) >= 2, "runs", "at least two folders", [str(run) for run in runs])
    check(examples >= 0, "examples", "at least 0", examples)
    check(examples > 0 or bool(images), "examples", "at least 1 without images", examples)
    check_scales(scales)
    names = names_of(runs)
    check_batch_size(evaluation.batch_size)
    figure, outputs = output / FIGURE, PictureOutputs(images)
    outputs.check(figure, figure)
    pictures = [to_rgb(open_picture(path, f"image {path}")) for path in images]
    loaded = {
        name: RUNS.load(run, evaluation.checkpoint) for name, run in zip(names, runs, strict=True)
    }
    check_same_images({name: run.config for name, run in loaded.items()})
    config = loaded[names[0]].config.data
    data = open_data(config, folders)
    metrics: dict[str, dict[str, float]] = {}
    for name, run in loaded.items():
        evaluate = make_evaluator(run.config, data, evaluation, scales=scales, flip=flip)
        metrics[name] = evaluate({part: run.state[part] for part in ("params", "model_state")})
    own = zip(pictures, images, strict=True)
    shown: list[_Shown] = [
        *((picture, label, "") for picture, label in spread_examples(data.validation, examples)),
        *((picture, None, f"image {path}: ") for picture, path in own),
    ]
    drawn = _drawn(loaded, shown, scales, flip)
    rows = {f"{name}, step {run.step}": metrics[name] for name, run in loaded.items()}
    count = f"{len(data.validation)} validation images of {config.own.images or config.source}"
    tables = metrics_table(count, rows), class_table(rows, data.class_names)
    results = {
        name: {"folder": encodable(folder), "step": loaded[name].step, "metrics": metrics[name]}
        for name, folder in zip(names, runs, strict=True)
    }
    views = {"scales": list(scales), "flip": flip}
    # Written only now, so that the files of one comparison belong together.
    outputs.write(figure, figure, draw_examples(drawn, data.class_names))
    save_tables(output / "table.md", tables)
    write_json(
        output / "compare.json", {"data": dataclasses.asdict(config), **views, "runs": results}
    )
    print_tables(tables, [f"Tables and figure: {output}"])


def _drawn(
    loaded: Mapping[str, LoadedRun[SegmentationConfig]],
    shown: Sequence[_Shown],
    scales: Sequence[float],
    flip: bool,
) -> list[Example]:
    """The rows of the figure."""
    maps: list[dict[str, np.ndarray]] = [{} for _ in shown]
    for name, run in loaded.items():
        infer = make_infer(run)
        for (picture, _, prefix), found in zip(shown, maps, strict=True):
            try:
                found[name] = segment_picture(picture, infer, run.config.data, scales, flip)
            except InputError as error:
                raise InputError(f"{prefix}run {name}: {error}") from error
    return [
        Example(np.asarray(picture), found, label)
        for (picture, label, _), found in zip(shown, maps, strict=True)
    ]


def metrics_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """A table of the metrics over all classes, with a row for each run.

    Args:
        title: title of the table.
        rows: metrics of each run, by the run's name; undefined metrics are missing.
    """
    texts = (
        (name, *(_percent(row, metric.name) for metric in METRICS)) for name, row in rows.items()
    )
    return Table(title, ("", *(metric.heading for metric in METRICS)), tuple(texts))


def class_table(rows: Mapping[str, Mapping[str, float]], class_names: Sequence[str]) -> Table:
    """A table of the IoU of each class, with a column for each run.

    Args:
        rows: metrics of each run, by the run's name.
        class_names: names of the classes.
    """
    texts = (
        (name, *(_percent(row, iou_name(name)) for row in rows.values())) for name in class_names
    )
    return Table("IoU of each class, %", ("", *rows), tuple(texts))


def spread_examples(
    source: Source, count: int
) -> list[tuple[Image.Image, UInt8[np.ndarray, "height width"]]]:
    """Selects images with their labels, evenly spread over a dataset.

    Args:
        source: records in the format of :mod:`experiments.data.label_maps`.
        count: number of images.

    Returns:
        At most ``count`` images, always the same. A record that cannot be read is replaced by the
        next one.
    """
    found: dict[int, tuple[Image.Image, np.ndarray]] = {}
    for start in np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int):
        for number in range(start, len(source)):
            if number in found:
                continue
            try:
                record = read_record(source, number)
                found[number] = decode_image(record), decode_label(record)
            except RecordError:
                continue
            break
    return list(found.values())


def _percent(metrics: Mapping[str, float], name: str) -> str:
    return f"{100 * metrics[name]:.2f}" if name in metrics else ""
