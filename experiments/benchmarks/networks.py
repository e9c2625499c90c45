"""Times networks with and without CARAFE++: `python -m experiments.benchmarks.networks`.

Prints a table in Markdown: ResNet in inference and training, and Faster R-CNN in inference, ours
and torchvision's if that is installed. All weights are random. If torchvision is installed, our
ResNets have its weights, except for the layers of CARAFE++. The detectors have different weights:
the work of torchvision's detector depends on how many regions its weights propose, which is the
same in every run; our detector does the same work for every image. Runs on any JAX backend.

On a CPU with glibc, all networks are measured twice: with the defaults of the allocator, and with
huge pages. See :mod:`experiments.benchmarks.processes`.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import machine, processes, pytorch
from experiments.benchmarks.machine import Machine
from experiments.benchmarks.markdown import decimals, digits, megabytes, print_table
from experiments.benchmarks.timing import Program, Steps, Timing, check_rounds, in_turns
from experiments.benchmarks.torchvision_networks import all_layouts, save_resnet
from experiments.classification.torch_weights import load_torch_resnet
from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.detector import Detector
from experiments.engine.command_line import run_program
from experiments.engine.step import draw_variables, initial_key
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import Depth, ResNetConfig
from experiments.resamplers.methods import Downsampler, Upsampler

OURS = "ours"
CLASSES = 1000
_OBJECT_CLASSES = 90  # as in COCO's numbering, without the background
_LEARNING_RATE, _MOMENTUM = 0.01, 0.9
# Names of ResNet's submodules with CARAFE++, as `load_torch_resnet` expects them.
_CARAFE = ("pool", "resample", "downsample_resample")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the networks and images that are timed.

    Attributes:
        depth: number of layers of every ResNet.
        batch: number of images of a batch to classify.
        side: side of an image to classify, in pixels.
        detected: height and width of the image in which objects are detected.
    """

    depth: Depth = 50
    batch: int = 4
    side: int = 224
    detected: tuple[int, int] = (320, 416)


def classification(sizes: Sizes, rounds: int) -> dict[str, Timing]:
    """Times ResNets in inference: logits of a batch, with running averages."""
    image, _ = _batch(sizes)
    functions: dict[str, Callable[[], object]] = {
        name: Program(model.apply, (variables, image))
        for name, (model, variables) in resnets(sizes).items()
    }
    for name, layout in all_layouts(jax.default_backend()).items():
        functions[name] = layout.classification(sizes.depth, CLASSES, image)
    return in_turns(functions, rounds)


def training(sizes: Sizes, rounds: int) -> dict[str, Timing]:
    """Times ResNets in training: loss of a batch, gradients, and a step of SGD with momentum."""
    image, label = _batch(sizes)
    optimizer = optax.sgd(_LEARNING_RATE, _MOMENTUM)
    functions: dict[str, Callable[[], object]] = {
        name: Steps(
            functools.partial(_training_step, model, optimizer),
            (variables, optimizer.init(variables["params"])),
            (image, label),
        )
        for name, (model, variables) in resnets(sizes).items()
    }
    for name, layout in all_layouts(jax.default_backend()).items():
        functions[name] = layout.training(
            sizes.depth, CLASSES, image, label, _LEARNING_RATE, _MOMENTUM
        )
    return in_turns(functions, rounds)


def detection(sizes: Sizes, rounds: int) -> dict[str, Timing]:
    """Times Faster R-CNN in inference: the detections in an image."""
    image = jax.random.normal(jax.random.key(0), (1, *sizes.detected, 3))
    upsamplers: dict[str, Upsampler] = {OURS: "nearest", f"{OURS}, CARAFE++ in FPN": "carafe"}
    functions: dict[str, Callable[[], object]] = {}
    for name, upsampler in upsamplers.items():
        config = DetectorConfig(
            backbone=ResNetConfig(sizes.depth, norm="frozen"), neck=FPNConfig(upsampler=upsampler)
        )
        model = Detector(config, _OBJECT_CLASSES)
        variables = _variables(model, image, method="layers")
        functions[name] = Program(model.apply, (variables, image, jnp.array([sizes.detected])))
    for name, layout in all_layouts(jax.default_backend()).items():
        functions[name] = layout.detection(sizes.depth, _OBJECT_CLASSES, image)
    return in_turns(functions, rounds)


# The functions that time the networks, by the name of the pass.
PASSES: dict[str, Callable[[Sizes, int], dict[str, Timing]]] = {
    "ResNet, inference": classification,
    "ResNet, training step": training,
    "Faster R-CNN, inference": detection,
}


def resnets(sizes: Sizes) -> dict[str, tuple[ResNet, Any]]:
    """Our ResNets with their variables, by name.

    If torchvision is installed, the variables come from its ResNet, except for layers that it does
    not have.
    """
    image, _ = _batch(sizes)
    downsamplers: dict[str, tuple[Downsampler, tuple[str, ...]]] = {
        OURS: ("strided", ()),
        f"{OURS}, CARAFE++": ("carafe", _CARAFE),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "resnet.pth")
        saved = save_resnet(sizes.depth, CLASSES, path)
        for name, (downsampler, own) in downsamplers.items():
            model = ResNet(ResNetConfig(sizes.depth, downsampler), CLASSES)
            variables = _variables(model, image)
            if saved:
                variables = load_torch_resnet(path, variables, own).variables
            found[name] = model, variables
    return found


def _batch(sizes: Sizes) -> tuple[jax.Array, jax.Array]:
    """Random images and labels."""
    shape = sizes.batch, sizes.side, sizes.side, 3
    return jax.random.normal(jax.random.key(0), shape), jnp.arange(sizes.batch) % CLASSES


def _variables(model: nn.Module, image: jax.Array, **options: Any) -> Any:
    variables = draw_variables(
        model, initial_key(0), jax.ShapeDtypeStruct(image.shape, image.dtype), **options
    )
    return jax.device_put(variables, jax.devices()[0])


def _training_step(
    model: ResNet,
    optimizer: optax.GradientTransformation,
    state: tuple[Any, Any],
    batch: tuple[jax.Array, jax.Array],
) -> tuple[Any, Any]:
    """The variables and the state of the optimiser after a step."""
    (variables, optimizer_state), (image, label) = state, batch

    def loss(params: Any) -> tuple[jax.Array, Any]:
        given = {**variables, "params": params}
        logits, updated = model.apply(given, image, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return losses.mean(), updated

    gradients, updated = jax.grad(loss, has_aux=True)(variables["params"])
    updates, optimizer_state = optimizer.update(gradients, optimizer_state)
    params = optax.apply_updates(variables["params"], updates)
    return {**updated, "params": params}, optimizer_state


def describe_machine() -> Machine:
    """Describes this machine, with the version of PyTorch if torchvision is installed."""
    here = machine.this_machine()
    torch = pytorch.load(here.platform) if pytorch.load_torchvision() else None
    return Machine(here.platform, f"{here.description}, {pytorch.version(torch)}")


_SIZES = Sizes()


def run(rounds: int = 5, sizes: Sizes = _SIZES) -> None:
    """Prints the table.

    Args:
        rounds: number of turns of each network, of five calls, or one if it is slow; the table
            has the medians.
        sizes: sizes of the networks and images.
    """
    check_rounds(rounds)
    here = processes.call(describe_machine, "defaults")
    allocator = processes.or_defaults("huge pages", here.platform)
    huge = allocator != "defaults"

    def all_rows() -> Iterator[list[str]]:
        for name, measure in PASSES.items():
            found = processes.call(measure, "defaults", sizes, rounds)
            paged = processes.call(measure, allocator, sizes, rounds) if huge else None
            yield from rows(name, found, paged)

    print(processes.header(here, allocator))
    print_table(headings(huge), 2, all_rows())


def headings(huge_pages: bool) -> list[str]:
    """Column headings; with ``huge_pages`` also for the measurement with huge pages."""
    numbers = ["ms", "times ours", "page faults"]
    others = [f"huge pages, {number}" for number in numbers] if huge_pages else []
    return ["", "network", *numbers, *others, "compile, s", "temporary MB"]


def rows(
    name: str, found: Mapping[str, Timing], with_huge_pages: Mapping[str, Timing] | None
) -> Iterator[list[str]]:
    """The rows of a pass; ``with_huge_pages`` has the times with huge pages."""
    for network, timing in found.items():
        entries = [name if network == OURS else "", network, *_numbers(found, network)]
        if with_huge_pages is not None:
            entries += _numbers(with_huge_pages, network)
        entries.append(decimals(timing.compile_seconds, 1))
        entries.append(megabytes(timing.temporary_bytes, 0))
        yield entries


def _numbers(times: Mapping[str, Timing], network: str) -> tuple[str, str, str]:
    timing = times[network]
    ratio = timing.milliseconds / times[OURS].milliseconds
    return digits(timing.milliseconds), f"{ratio:.2f}", f"{timing.page_faults:.0f}"


if __name__ == "__main__":
    run_program(run)
