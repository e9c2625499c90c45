"""A detector without a network, whose batches contain its detections; also a program.

As a program, in each of two processes, it evaluates itself and writes its results to a file.
"""

import json
import sys
from pathlib import Path

import grain
import jax.numpy as jnp
import numpy as np

from experiments.detection.evaluation.evaluator import DetectionEvaluator
from experiments.detection.evaluation.ground_truth import read_ground_truth
from experiments.engine import distributed
from experiments.engine.distributed_config import Distributed
from tests.experiments.detection.evaluation.annotated import CATEGORIES, HEIGHT, WIDTH, record

FOUND = 5  # number of rows for detections
BUCKETS = {(64, 96): 0.75, (96, 64): 0.5}  # scale of each shape, exact in float32


def scenes():
    """Eleven records, which is no multiple of a batch size; some have no objects."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(11):
        count = number % 4
        corners, sides = rng.integers(0, 40, (count, 2)), rng.integers(8, 20, (count, 2))
        bboxes = np.concatenate([corners, sides], 1)
        records.append(record(100 - 7 * number, bboxes, rng.integers(0, 3, count)))
    return records


def example(records, number, shape, unreadable):
    """The example of a record, with its objects as detections.

    An unreadable record, or None for padding, has weight 0 and the detections of another record.
    """
    present = number is not None and number not in unreadable
    objects = records[number if present else 3]["objects"]
    scale, count = BUCKETS[shape], len(objects["bbox"])
    corners = np.concatenate(
        [objects["bbox"][:, :2], objects["bbox"][:, :2] + objects["bbox"][:, 2:]], 1
    )
    boxes, labels = np.zeros((FOUND, 4), np.float32), np.zeros(FOUND, np.int32)
    boxes[:count], labels[:count] = scale * corners, objects["label"]
    return {
        "image": np.zeros((*shape, 3), np.uint8),
        "size": np.array([scale * HEIGHT, scale * WIDTH], np.int32),
        "original_size": np.array([HEIGHT, WIDTH], np.int32),
        "weight": np.float32(present),
        "record": np.int64(-1 if number is None else number),
        "unreadable": np.array([number if number in unreadable else -1], np.int64),
        "boxes": boxes,
        "labels": labels,
        "count": np.int32(count),
    }


def batches(records, batch_size=4, unreadable=(), process=0, processes=1):
    """A process's share of batches, each from one bucket; the last of each bucket is padded."""
    rows = batch_size // processes
    own = []
    for bucket, shape in enumerate(BUCKETS):
        numbers = list(range(bucket, len(records), len(BUCKETS)))
        numbers += [None] * (-len(numbers) % batch_size)
        for start in range(process * rows, len(numbers), batch_size):
            examples = [
                example(records, number, shape, unreadable)
                for number in numbers[start : start + rows]
            ]
            own.append({name: np.stack([e[name] for e in examples]) for name in examples[0]})
    return grain.MapDataset.source(own)


def detect(shift, batch):
    """Finds all objects, shifted to the right by ``shift`` pixels of the original image."""
    scale = batch["size"][:, 1] / batch["original_size"][:, 1]  # [b]
    moved = jnp.array([[1, 0, 1, 0]]) * (shift * scale)[:, None]  # [b, 4]
    count = batch["count"].shape[0]
    return {
        "boxes": batch["boxes"] + moved[:, None],
        "scores": jnp.broadcast_to(jnp.linspace(0.9, 0.7, FOUND)[None], (count, FOUND)),
        "labels": batch["labels"],
        "valid": jnp.arange(FOUND)[None] < batch["count"][:, None],
        "masks": jnp.ones((count, FOUND, 28, 28)),
    }


def evaluator(records, max_unreadable_records=0, detect=detect, **options):
    truth = read_ground_truth(records, CATEGORIES)
    dataset = batches(records, **options)
    return DetectionEvaluator(
        detect, dataset, truth, masks=True, max_unreadable_records=max_unreadable_records
    )


def main() -> None:
    folder, process, processes, port = sys.argv[1:]
    distributed.start(
        Distributed(
            coordinator=f"127.0.0.1:{port}",
            processes=int(processes),
            process=int(process),
            cpu_devices=4 // int(processes),
        )
    )
    part = {"process": int(process), "processes": int(processes), "unreadable": (6,)}
    evaluate = evaluator(scenes(), max_unreadable_records=1, **part)
    found = {
        "metrics": evaluate(jnp.float32(2)),
        "results": evaluate.results(jnp.float32(0)),
        "gathered": [
            part.decode() for part in distributed.gather_bytes(b"ab" * (3 * int(process)))
        ],
    }
    Path(folder, f"{process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
