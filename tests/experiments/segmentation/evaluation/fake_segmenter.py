"""A segmentation network without parameters, its images, and a slow evaluation; also a program.

As a program, in each of two processes, it evaluates itself and writes its results to a file.
"""

import io
import json
import sys
from pathlib import Path

import grain
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.data.classes import UNLABELLED
from experiments.engine import distributed
from experiments.engine.distributed_config import Distributed
from experiments.segmentation.evaluation.evaluator import SegmentationEvaluator

NAMES = ("sky", "sea", "sand", "ship", "whale")  # no label is a whale
SIDE = 64  # shorter side of the network's images
# Weights of the three colours in the logits of the classes.
WEIGHTS = np.random.default_rng(1).normal(size=(3, len(NAMES))).astype(np.float32)
SIZES = [(40, 61), (64, 64), (33, 90), (70, 30), (128, 100), (50, 50), (260, 90), (20, 30),
         (64, 65), (41, 60), (90, 33)]  # fmt: skip


def encode(pixels, **options):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", **options)
    return encoded.getvalue()


def make_record(number, height, width):
    """An image with smooth colours, and labels of blocks, a fifth of them unlabelled."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (5, 6, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    blocks = rng.choice([0, 1, 2, 3, UNLABELLED], (-(-height // 7), -(-width // 7)))
    label = np.kron(blocks, np.ones((7, 7)))[:height, :width].astype(np.uint8)
    return {
        "image": encode(pixels),
        "label": encode(label),
        "height": height,
        "width": width,
        "file_name": f"{number}.png",
        "scene": "",
    }


def make_records():
    return [make_record(number, *size) for number, size in enumerate(SIZES)]


def decoded(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image)


def network_size(record, scale):
    """The sides at which the network sees an image: two shapes for each scale."""
    side = round(SIDE * scale)
    return (side, side + 32) if record["width"] >= record["height"] else (side + 32, side)


def network_image(record, scale):
    height, width = network_size(record, scale)
    image = Image.fromarray(decoded(record["image"]))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def infer(state, image):
    """Logits of stride 8, which depend on the position too: a mirrored image differs."""
    batch, height, width, _ = image.shape
    blocks = image.reshape(batch, height // 8, 8, width // 8, 8, 3).astype(jnp.float32)
    colours = blocks.mean((2, 4)) / 255 + jnp.linspace(0, 0.2, width // 8)[None, None, :, None]
    return state * (colours @ jnp.asarray(WEIGHTS))


def slow_matrix(records, state, scales, flip, resized):
    """The confusion matrix, in float64 and a pixel at a time.

    ``resized`` resizes logits to a height and width.
    """
    matrix = np.zeros((len(NAMES), len(NAMES)), np.int64)
    for record in records:
        label, total = decoded(record["label"]), 0
        for scale in scales:
            image = network_image(record, scale).astype(np.float64)
            for mirrored in (False, True)[: 1 + flip]:
                view = image[:, ::-1] if mirrored else image
                height, width = (side // 8 for side in view.shape[:2])
                colours = view.reshape(height, 8, width, 8, 3).mean((1, 3)) / 255
                colours = colours + np.linspace(0, 0.2, width)[None, :, None]
                logits = state * (colours @ WEIGHTS.astype(np.float64))
                logits = resized(logits[:, ::-1] if mirrored else logits, *label.shape)
                exponentials = np.exp(logits)
                total = total + exponentials / exponentials.sum(-1, keepdims=True)
        for truth, found in zip(label.ravel(), total.argmax(-1).ravel(), strict=True):
            if truth != UNLABELLED:
                matrix[truth, found] += 1
    return matrix


def example(records, number, scales, portrait, unreadable):
    """The example of a record; an unreadable record, or None for padding, has weight 0."""
    present = number is not None and number not in unreadable
    first = next(n for n, record in enumerate(records) if is_portrait(record) == portrait)
    record = records[number if present else first]
    return {
        "images": tuple(network_image(record, scale) for scale in scales),
        "weight": np.float32(present),
        "record": np.int64(-1 if number is None else number),
        "unreadable": np.array([number if number in unreadable else -1], np.int64),
    }


def is_portrait(record):
    return record["height"] > record["width"]


def batches(records, scales=(1.0,), batch_size=4, unreadable=(), process=0, processes=1):
    """A process's share of batches of equal shapes; the last one of each shape is padded."""
    rows = batch_size // processes
    own = []
    for portrait in (False, True):
        numbers = [n for n, record in enumerate(records) if is_portrait(record) == portrait]
        numbers += [None] * (-len(numbers) % batch_size)
        for start in range(process * rows, len(numbers), batch_size):
            examples = [
                example(records, number, scales, portrait, unreadable)
                for number in numbers[start : start + rows]
            ]
            batch = {
                name: np.stack([each[name] for each in examples])
                for name in ("weight", "record", "unreadable")
            }
            images = zip(*(each["images"] for each in examples), strict=True)
            own.append({**batch, "images": tuple(np.stack(views) for views in images)})
    return grain.MapDataset.source(own)


def evaluator(records, max_unreadable_records=0, flip=False, infer=infer, **options):
    dataset = batches(records, **options)
    return SegmentationEvaluator(
        infer,
        dataset,
        records,
        NAMES,
        max_unreadable_records=max_unreadable_records,
        flip=flip,
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
    evaluate = evaluator(make_records(), max_unreadable_records=1, **part)
    state = jnp.float32(3)
    found = {"metrics": evaluate(state), "matrix": evaluate.matrix(state).tolist()}
    Path(folder, f"{process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
