"""Measures how much of the source weight of a target lies on the target's own object."""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.data.errors import DataError
from experiments.data.records import Source, read_record
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.batches import evaluation_batches
from experiments.detection.data.config import Split
from experiments.detection.data.datasets import open_data
from experiments.detection.data.object_masks import decode_mask
from experiments.detection.data.record_index import RecordIndex
from experiments.detection.pathways import observe
from experiments.detection.task import RUNS, make_model
from experiments.engine.batch_fields import RECORD
from experiments.engine.config import ConfigError, check
from experiments.engine.evaluation import check_unreadable
from experiments.engine.folders import DataFolders
from experiments.engine.input import Input, unreadable_records
from experiments.engine.parallel import check_batch_size, data_parallel, join, replicate
from experiments.engine.settings import EvaluationConfig
from experiments.engine.text import printable
from experiments.source_maps.instances import instance_map, resized
from experiments.source_maps.own_object import Means, add_image
from experiments.source_maps.pathways import (
    DOWNSAMPLERS,
    UPSAMPLERS,
    Pathway,
    compared,
    from_each_level,
)
from experiments.source_maps.report import write_shares

_FIXED = {"up": UPSAMPLERS, "down": DOWNSAMPLERS}


class _FirstRecords:
    """The first records of a source."""

    def __init__(self, source: Source, count: int) -> None:
        self._source, self._count = source, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._source[index]

    def __repr__(self) -> str:
        return f"the first {self._count} of {self._source!r}"


def measure_run(
    run: Path,
    output: Path,
    split: Split,
    images: int | None,
    folders: DataFolders,
    evaluation: EvaluationConfig,
) -> None:
    """Measures a run on the objects of a split, prints tables, and writes them.

    Args:
        run: folder of the run.
        output: folder for ``results.json`` and ``table.md``.
        split: split of the images, which must have objects with masks.
        images: number of images, the first of the split; None for all.
        folders: folders of the data.
        evaluation: choice of the checkpoint, batch size and workers.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: the run has no CARAFE++ in its pyramid or its backbone, the split is test,
            ``images`` is below 1, or the batch size is not a multiple of the number of devices.
        DataError: the dataset is missing, has no such split, or has objects without masks.
    """
    check(split != "test", "split", "train or validation: test has no annotated objects", split)
    check(images is None or images >= 1, "images", "at least 1", images)
    check_batch_size(evaluation.batch_size)
    config = RUNS.load_config(run)
    check_has_carafe(config, run)
    if config.data.source == "coco_boxes":
        raise DataError("the dataset must have masks to measure shares on objects, got coco_boxes")
    loaded = RUNS.load(run, evaluation.checkpoint)
    data = open_data(config.data, folders)
    source, index = data.source(split), data.index(split)
    if images is not None and images < len(source):
        source, index = _FirstRecords(source, images), _first(index, images)
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    measured = measure(config, state, source, index, evaluation)
    if not measured:
        raise DataError(f"{data.folder} must have objects in {split}, got none")
    write_shares(measured, output, run, loaded.step, split, len(source))


def check_has_carafe(config: DetectionConfig, run: Path) -> None:
    """Raises ``ConfigError`` if a run has no CARAFE++ in its pyramid or its backbone.

    Args:
        config: config of the run.
        run: folder of the run, for the message.
    """
    neck, backbone = config.model.neck.upsampler, config.model.backbone.downsampler
    if "carafe" not in (neck, backbone):
        raise ConfigError(
            "run must have CARAFE++ in its pyramid (model.neck.upsampler) or its backbone "
            f"(model.backbone.downsampler), got {neck!r} and {backbone!r} in {printable(run)}"
        )


def measure(
    config: DetectionConfig,
    state: Mapping[str, Any],
    source: Source,
    index: RecordIndex,
    evaluation: EvaluationConfig,
) -> dict[str, dict[str, Means]]:
    """Measures a network on records; it is applied once to each batch.

    Args:
        config: config of the run.
        state: parameters and statistics of the run.
        source: records in the format of :mod:`experiments.data.coco`.
        index: index of all records of ``source``.
        evaluation: batch size, workers, and the largest number of unreadable images.

    Returns:
        Means by the names of the pathway and of the method: from P5, P4 and P3 to P2, and from C1
        to C5. Pathways without CARAFE++ are left out;
        so are images without objects, and crowds, which count as background.

    Raises:
        DataError: an object has no mask.
        UnreadableEvaluationError: too many images cannot be read, or no image can.
    """
    model = make_model(config)

    def step(state: Any, batch: Any) -> Any:
        found = observe(model, state, batch["image"], batch["size"])
        kept = {name: batch[name] for name in ("size", "weight")}
        return {"up": found.up, "down": found.down}, kept

    apply = data_parallel(step, per_example=True)
    state = replicate(state)
    measured: dict[str, dict[str, Means]] = {}
    unreadable: list[int] = []
    records = 0
    batches = evaluation_batches(source, index, config.data, evaluation.batch_size)
    with closing(Input(batches, evaluation.workers)) as data:
        for batch, host in data:
            pathways, kept = join(apply(state, batch))
            unreadable += unreadable_records(host)
            records += int((host[RECORD] >= 0).sum())  # -1 is padding
            for number in np.flatnonzero(kept["weight"]):
                height, width = kept["size"][number].tolist()
                objects = object_numbers(read_record(source, int(host[RECORD][number])))
                if objects.any():
                    instances = resized(objects, (height, width))
                    for direction in ("up", "down"):
                        if pathways[direction] is not None:
                            pathway = pathways[direction].of_image(number)
                            _add(measured, direction, pathway, instances)
    check_unreadable(unreadable, records > len(unreadable), evaluation.max_unreadable_records)
    return measured


def _add(
    measured: dict[str, dict[str, Means]],
    direction: str,
    pathway: Pathway,
    instances: Int[np.ndarray, "height width"],
) -> None:
    for each in from_each_level(pathway) if direction == "up" else [pathway]:
        means = measured.setdefault(each.name, {})
        add_image(means, compared(each, _FIXED[direction]), instances)


def object_numbers(record: Mapping[str, Any]) -> Int[np.ndarray, "height width"]:
    """Returns the number of the object at each pixel of a record's image, 0 for the background.

    Args:
        record: record in the format of :mod:`experiments.data.coco`. Crowds are left out.

    Raises:
        DataError: an object that is not a crowd has no mask.
    """
    objects, size = record["objects"], (int(record["height"]), int(record["width"]))
    masks = []
    for number in np.flatnonzero(~np.asarray(objects["is_crowd"], bool)):
        counts = objects["segmentation"][number]
        if not counts:
            raise DataError(
                f"object {objects['id'][number]} of image {record['image_id']} must have a mask to "
                "measure shares on objects, got none"
            )
        masks.append(decode_mask(counts, *size).astype(bool))
    return instance_map(masks, size)


def _first(index: RecordIndex, count: int) -> RecordIndex:
    names = [field.name for field in dataclasses.fields(index)]
    return RecordIndex(**{name: getattr(index, name)[:count] for name in names})
