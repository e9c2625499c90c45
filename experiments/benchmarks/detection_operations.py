"""Times operations of the detector: `python -m experiments.benchmarks.detection_operations`.

Prints three tables in Markdown:

- NMS, compared with a loop in numpy, and with torchvision's if that is installed;
- RoIAlign with 2x2 points in a bin, compared with the common formulation, which gathers all taps
  and contracts them, and with as many points as a bin has pixels ("adaptive");
- mask targets, cropped on the device from small masks relative to their boxes, or from bitmaps of
  the whole input.

Runs on any JAX backend.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from experiments.benchmarks import machine, pytorch
from experiments.benchmarks.markdown import megabytes, print_table
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.timing import Program, check_rounds, in_turns
from experiments.data.coco_masks import compressed_counts
from experiments.detection.data.object_masks import box_mask, decode_mask
from experiments.detection.model.mask_targets import crop_masks
from experiments.detection.model.nms import nms
from experiments.detection.model.roi_align import assign_levels, roi_align
from experiments.engine.command_line import run_program

_HEIGHT, _WIDTH = 800, 1344
_STRIDES = (4, 8, 16, 32)
_IOU_THRESHOLD = 0.7
_SCALE = 800 / 480  # from COCO's usual 480x640
_TARGET = 28


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the operands.

    Attributes:
        boxes: numbers of boxes for NMS, one for each row.
        rois: number of regions for RoIAlign.
        channels: number of channels of the pyramid, for an input of 800x1344.
        slots: number of objects of an image in a training batch, with padding.
        objects: number of objects of an image, without padding.
        mask_rois: number of regions of an image with a mask target.
        compared: number of objects for the comparison of small masks with bitmaps.
    """

    boxes: tuple[int, ...] = (1000, 2000, 4000, 12000)
    rois: int = 512
    channels: int = 256
    slots: int = 100
    objects: int = 7
    mask_rois: int = 128
    compared: int = 64


def random_boxes(rng: np.random.Generator, count: int) -> Float32[np.ndarray, "count 4"]:
    """Random boxes with sides of 20 to 400 pixels, half of them near one of forty objects."""
    centre, side = rng.random((40, 2)) * (_WIDTH, _HEIGHT), np.exp(rng.uniform(3, 6, (40, 2)))
    which, anywhere = rng.integers(0, 40, count), rng.random((count, 1)) < 0.5
    centres = np.where(
        anywhere,
        rng.random((count, 2)) * (_WIDTH, _HEIGHT),
        centre[which] + 0.15 * side[which] * rng.normal(size=(count, 2)),
    )
    sides = np.where(
        anywhere,
        np.exp(rng.uniform(3, 6, (count, 2))),
        side[which] * np.exp(0.15 * rng.normal(size=(count, 2))),
    )
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return np.clip(boxes, 0, (_WIDTH, _HEIGHT) * 2).astype(np.float32)


def loop_nms(
    boxes: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, " n"], threshold: float
) -> Bool[np.ndarray, " n"]:
    """Greedy NMS in numpy: compares one box at a time with all following boxes."""
    order = np.argsort(-scores, kind="stable")
    ranked = boxes[order]
    areas = (ranked[:, 2:] - ranked[:, :2]).prod(axis=1)
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            low = np.maximum(ranked[i, :2], ranked[i + 1 :, :2])
            high = np.minimum(ranked[i, 2:], ranked[i + 1 :, 2:])
            shared = np.maximum(high - low, 0).prod(axis=1)
            iou = shared / (areas[i] + areas[i + 1 :] - shared)
            alive[i + 1 :] &= ~(iou > np.float32(threshold))
    keep = np.zeros(len(boxes), bool)
    keep[order] = alive
    return keep


def print_nms(sizes: Sizes, rounds: int) -> None:
    """Times NMS and prints the table."""
    platform = jax.default_backend()
    torch = pytorch.load(platform)
    torchvision = None if torch is None else pytorch.load_torchvision()

    def rows() -> Iterator[list[str]]:
        for count in sizes.boxes:
            rng = np.random.default_rng(0)
            boxes, scores = random_boxes(rng, count), rng.random(count, np.float32)
            loop = partial(loop_nms, boxes, scores, _IOU_THRESHOLD)
            functions: dict[str, Callable[[], object]] = {
                "ours": Program(
                    lambda boxes, scores: nms(boxes, scores, _IOU_THRESHOLD),
                    (jnp.asarray(boxes), jnp.asarray(scores)),
                ),
                "numpy": loop,
            }
            if torchvision is not None:
                tensors = [pytorch.tensor(torch, each, platform) for each in (boxes, scores)]
                call = partial(torchvision.ops.nms, *tensors, _IOU_THRESHOLD)
                functions["torchvision"] = pytorch.waiting(torch, call, platform)
            times = in_turns(functions, rounds)
            ours, numpy = times["ours"], times["numpy"]
            yield [
                f"{count:,}",
                str(int(loop().sum())),
                f"{ours.milliseconds:.2f}",
                megabytes(ours.temporary_bytes, 1),
                f"{numpy.milliseconds:.0f}",
                f"{numpy.milliseconds / ours.milliseconds:.0f}",
                *(f"{times[name].milliseconds:.2f}" for name in times if name == "torchvision"),
            ]

    headings = ["boxes", "kept", "ours, ms", "ours, temporary MB", "numpy, ms", "numpy, times ours"]
    print("\nNMS, IoU 0.7\n")
    print_table(headings + ["torchvision, ms"] * (torchvision is not None), 1, rows())


def through_all_taps(
    pyramid: list[jax.Array], boxes: jax.Array, levels: jax.Array, output_size: int, points: int
) -> jax.Array:
    """RoIAlign of one image that gathers all taps of all points at once."""
    flat = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in pyramid])
    heights, widths = (jnp.array([x.shape[axis] for x in pyramid])[levels[0]] for axis in (1, 2))
    starts = np.cumsum([0] + [x.shape[1] * x.shape[2] for x in pyramid])[:-1]
    first = jnp.asarray(starts)[levels[0]]  # [R]
    strides = jnp.array(_STRIDES, jnp.float32)[levels[0]]
    low, high = (part / strides[:, None] - 0.5 for part in jnp.split(boxes[0], 2, axis=-1))
    at = (jnp.arange(output_size * points) + 0.5) / (output_size * points)  # [P]

    def axis(column: int, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = (size - 1)[:, None]
        position = low[:, column, None] + at[None] * (high - low)[:, column, None]
        inside = (position >= -1) & (position <= last + 1)
        position = jnp.clip(position, 0, last)
        pixel = jnp.floor(position).astype(jnp.int32)
        pixels = jnp.stack([pixel, jnp.minimum(pixel + 1, last)], axis=-1)
        weights = jnp.stack([1 - position + pixel, position - pixel], axis=-1)
        return pixels, weights * inside[..., None]

    rows, row_weights = axis(1, heights)
    columns, column_weights = axis(0, widths)
    index = rows * widths[:, None, None] + first[:, None, None]
    values = flat[index[:, :, :, None, None] + columns[:, None, None]]  # [R, P, 2, P, 2, C]
    y = jnp.einsum("rpaqbc,rpa,rqb->rpqc", values, row_weights, column_weights)
    y = y.reshape(-1, output_size, points, output_size, points, y.shape[-1])
    return y.mean(axis=(2, 4)).astype(flat.dtype)[None]


def print_roi_align(sizes: Sizes, rounds: int) -> None:
    """Times RoIAlign and its gradient, and prints the table."""
    rng = np.random.default_rng(0)
    boxes = jnp.asarray(random_boxes(rng, sizes.rois))[None]
    levels = assign_levels(boxes)

    def ours(*pyramid: jax.Array) -> jax.Array:
        return roi_align(pyramid, _STRIDES, boxes, levels, 7)

    def adaptive(*pyramid: jax.Array) -> jax.Array:
        return roi_align(pyramid, _STRIDES, boxes, levels, 7, sampling_ratio=0)

    def all_taps(*pyramid: jax.Array) -> jax.Array:
        return through_all_taps(list(pyramid), boxes, levels, 7, 2)

    def rows() -> Iterator[list[str]]:
        for dtype in ("float32", "bfloat16"):
            keys = jax.random.split(jax.random.key(0), 5)
            pyramid = [
                jax.random.normal(
                    key, (1, _HEIGHT // stride, _WIDTH // stride, sizes.channels), dtype
                )
                for key, stride in zip(keys, _STRIDES, strict=False)
            ]
            cotangent = jax.random.normal(keys[4], (1, sizes.rois, 7, 7, sizes.channels), dtype)
            functions = {"ours": ours, "all taps": all_taps, "adaptive": adaptive}
            programs = {
                FORWARD: {name: Program(run, pyramid) for name, run in functions.items()},
                WITH_GRADIENT: {
                    name: Program(_with_gradient(run), [*pyramid, cotangent])
                    for name, run in functions.items()
                },
            }
            for name, by_name in programs.items():
                times = in_turns(by_name, rounds)
                entries = []
                for timing in times.values():
                    entries += [f"{timing.milliseconds:.1f}", megabytes(timing.temporary_bytes, 0)]
                ours_ms = times["ours"].milliseconds
                ratios = [
                    f"{times[other].milliseconds / ours_ms:.1f}"
                    for other in ("all taps", "adaptive")
                ]
                yield [dtype if name == FORWARD else "", name, *entries, *ratios]

    print(f"\nRoIAlign, {sizes.rois} regions of 7x7, {sizes.channels} channels, input 800x1344\n")
    columns = [
        f"{name}, {measure}"
        for name in ("ours", "all taps", "adaptive")
        for measure in ("ms", "temporary MB")
    ]
    headings = ["", "pass", *columns, "all taps, times ours", "adaptive, times ours"]
    print_table(headings, 2, rows())


def _with_gradient(function: Callable[..., jax.Array]) -> Callable[..., object]:
    def run(*arguments: jax.Array) -> object:
        y, pullback = jax.vjp(function, *arguments[:-1])
        return y, pullback(arguments[-1])

    return run


@dataclasses.dataclass(frozen=True)
class Objects:
    """Random objects in an image of 480x640, and regions near them.

    Attributes:
        counts: compressed run lengths of the objects' masks.
        boxes: ``[N, 4]``, boxes of the objects in pixels of the image.
        matched: ``[R]``, index of the object of each region.
        rois: ``[R, 4]``, regions in pixels of the network's input.
    """

    counts: list[str]
    boxes: Float[np.ndarray, "objects 4"]
    matched: np.ndarray
    rois: Float32[np.ndarray, "rois 4"]


def random_objects(rng: np.random.Generator, count: int, rois: int) -> Objects:
    """Random polygons of 40 corners, from ellipses to stars, with sides of 16 to 400 pixels."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    counts, boxes = [], []
    for _ in range(count):
        waves, height = rng.integers(2, 9), rng.uniform(0, 0.5)
        radius = 1 + height * np.sin(waves * angles + rng.uniform(0, 6))
        shape = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]
        centre, side = rng.random(2) * (640, 480), np.exp(rng.uniform(np.log(16), np.log(400), 2))
        corners = np.clip(centre + shape * side / 3, 0, (640, 480))
        low, high = corners.min(axis=0), corners.max(axis=0)
        boxes.append(np.concatenate([low, np.maximum(high, low + 1)]))
        counts.append(compressed_counts([corners.reshape(-1).tolist()], 480, 640))
    matched = np.arange(rois) % count
    around = np.array(boxes)[matched] * _SCALE
    sides = np.tile(around[:, 2:] - around[:, :2], (1, 2))
    moved = around + rng.uniform(-0.15, 0.15, sides.shape) * sides
    return Objects(counts, np.clip(boxes, 0, (640, 480) * 2), matched, moved.astype(np.float32))


def small_masks(objects: Objects, side: int, slots: int) -> UInt8[np.ndarray, "slots side side"]:
    """The masks of all objects, relative to their boxes, padded to ``slots``."""
    masks = np.zeros((slots, side, side), np.uint8)
    for n, (counts, box) in enumerate(zip(objects.counts, objects.boxes, strict=True)):
        masks[n] = box_mask(decode_mask(counts, 480, 640), box, side)
    return masks


def bitmaps(objects: Objects, slots: int) -> UInt8[np.ndarray, "slots 800 1344"]:
    """The masks of all objects over the whole input of the network, padded to ``slots``."""
    masks = np.zeros((slots, _HEIGHT, _WIDTH), np.uint8)
    width, height = round(640 * _SCALE), round(480 * _SCALE)
    for n, counts in enumerate(objects.counts):
        # With 255 steps, edges are finer than the pixels of the image.
        image = Image.fromarray(255 * decode_mask(counts, 480, 640))
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        masks[n, :height, :width] = np.asarray(resized)
    return masks


def crop_bitmaps(
    masks: UInt8[jax.Array, "slots 800 1344"], matched: jax.Array, rois: jax.Array
) -> Float32[jax.Array, "rois size size"]:
    """Mask targets, by RoIAlign of the bitmap of each region's object."""
    maps = [mask[None, :, :, None].astype(jnp.float32) / 255 for mask in masks]
    values = roi_align(maps, (1,) * len(maps), rois[None], matched[None], _TARGET)
    return (values[0, ..., 0] >= 0.5).astype(jnp.float32)


def print_mask_targets(sizes: Sizes, rounds: int) -> None:
    """Times both ways to compute mask targets from run lengths, and how much they differ."""
    objects = random_objects(np.random.default_rng(0), sizes.objects, sizes.mask_rois)
    matched, rois = jnp.asarray(objects.matched), jnp.asarray(objects.rois)

    def entries(
        name: str, make: Callable[[], np.ndarray], crop: Callable[..., jax.Array]
    ) -> list[str]:
        masks = make()
        times = in_turns(
            {
                "host": make,
                "transfer": lambda: jax.device_put(masks).block_until_ready(),
                "device": Program(crop, (jax.device_put(masks), matched, rois)),
            },
            rounds,
        )
        return [
            name,
            f"{masks.nbytes / 1e6:.2f}",
            f"{times['host'].milliseconds:.1f}",
            f"{times['transfer'].milliseconds:.2f}",
            f"{times['device'].milliseconds:.1f}",
            megabytes(times["device"].temporary_bytes, 0),
        ]

    def crop(masks: jax.Array, matched: jax.Array, rois: jax.Array) -> jax.Array:
        boxes = jnp.zeros((sizes.slots, 4)).at[: sizes.objects].set(objects.boxes * _SCALE)
        return crop_masks(masks, boxes, matched, rois, _TARGET)

    def rows() -> Iterator[list[str]]:
        for side in (28, 56, 112):
            make = partial(small_masks, objects, side, sizes.slots)
            share = 100 * disagreement(side, sizes.compared)
            yield [*entries(f"{side}x{side} masks of the boxes", make, crop), f"{share:.2f}"]
        whole = partial(bitmaps, objects, sizes.slots)
        yield [*entries("800x1344 bitmaps of the input", whole, crop_bitmaps), "0"]

    print(
        f"\nMask targets of an image, {sizes.objects} objects in {sizes.slots} slots, "
        f"{sizes.mask_rois} regions of {_TARGET}x{_TARGET}\n"
    )
    headings = ["transferred", "MB", "host, ms", "transfer, ms", "device, ms",
                "device, temporary MB", "pixels that differ, %"]  # fmt: skip
    print_table(headings, 1, rows())


def disagreement(side: int, count: int) -> float:
    """The share of target pixels that differ between small masks and bitmaps of random objects."""
    differ = []
    small, whole = jax.jit(crop_masks, static_argnums=4), jax.jit(crop_bitmaps)
    for seed in range(-(-count // 8)):
        objects = random_objects(np.random.default_rng(1 + seed), 8, 64)
        boxes = jnp.asarray(objects.boxes * _SCALE)
        masks = small_masks(objects, side, 8)
        found = small(masks, boxes, objects.matched, objects.rois, _TARGET)
        expected = whole(bitmaps(objects, 8), objects.matched, objects.rois)
        differ.append(float((found != expected).mean()))
    return statistics.mean(differ)


_SIZES = Sizes()


def run(rounds: int = 5, sizes: Sizes = _SIZES) -> None:
    """Prints the tables.

    Args:
        rounds: number of turns of each function, of five calls, or one if it is slow; the table
            has the medians.
        sizes: sizes of the operands.
    """
    check_rounds(rounds)
    print(machine.this_machine().description)
    for print_one in (print_nms, print_roi_align, print_mask_targets):
        print_one(sizes, rounds)


if __name__ == "__main__":
    run_program(run)
