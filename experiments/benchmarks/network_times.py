"""Times of whole networks, with and without CARAFE++, and of torchvision's."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import machine, torchvision_networks
from experiments.benchmarks.timing import Calls, Program, Steps, in_turns
from experiments.benchmarks.torchvision_networks import TorchvisionNetworks
from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.detector import Detector
from experiments.engine.step import draw_variables, initial_key
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import Depth, ResNetConfig
from experiments.resamplers.methods import Downsampler, Upsampler

OURS = "ours"
_CLASSES = 1000
_OBJECT_CLASSES = 90  # without the background, as in COCO's numbering
_LEARNING_RATE, _MOMENTUM = 0.01, 0.9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is timed.

    Attributes:
        depth: of every ResNet.
        batch: images of a batch to classify.
        side: of an image to classify.
        detected: height and width of the one image in which objects are detected.
    """

    depth: Depth = 50
    batch: int = 4
    side: int = 224
    detected: tuple[int, int] = (320, 416)


@dataclasses.dataclass(frozen=True)
class Network:
    """Of one network.

    Attributes:
        calls: what its calls took.
        compile_seconds: ``None`` if it is not compiled.
        temporary_bytes: besides arguments and results; ``None`` if it is not compiled.
    """

    calls: Calls
    compile_seconds: float | None
    temporary_bytes: int | None


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks side by side.

    Attributes:
        platform: of JAX.
        machine: in words.
        torch: the version of PyTorch, or ``None`` where torchvision's networks are left out.
        networks: by name, ours without CARAFE++ first.
    """

    platform: str
    machine: str
    torch: str | None
    networks: dict[str, Network]


def classification(sizes: Sizes, rounds: int) -> Networks:
    """Times ResNets in inference: logits of a batch, with running averages."""
    image, _ = _batch(sizes)
    programs = {
        name: Program(model.apply, (variables, image)) for name, model, variables in _resnets(sizes)
    }
    return _beside(
        programs, lambda others: others.classification(sizes.depth, _CLASSES, image), rounds
    )


def training(sizes: Sizes, rounds: int) -> Networks:
    """Times ResNets in training: loss of a batch, gradients, and a step of SGD with momentum."""
    image, label = _batch(sizes)
    optimizer = optax.sgd(_LEARNING_RATE, _MOMENTUM)
    programs = {
        name: Steps(
            functools.partial(_training_step, model, optimizer),
            (variables, optimizer.init(variables["params"])),
            (image, label),
        )
        for name, model, variables in _resnets(sizes)
    }

    def of_torchvision(others: TorchvisionNetworks) -> Callable[[], object]:
        return others.training(sizes.depth, _CLASSES, image, label, _LEARNING_RATE, _MOMENTUM)

    return _beside(programs, of_torchvision, rounds)


def detection(sizes: Sizes, rounds: int) -> Networks:
    """Times Faster R-CNN in inference: the detections in an image."""
    image = jax.random.normal(jax.random.key(0), (1, *sizes.detected, 3))
    upsamplers: dict[str, Upsampler] = {OURS: "nearest", f"{OURS}, CARAFE++ in FPN": "carafe"}
    programs = {}
    for name, upsampler in upsamplers.items():
        config = DetectorConfig(
            backbone=ResNetConfig(sizes.depth, norm="frozen"), neck=FPNConfig(upsampler=upsampler)
        )
        model = Detector(config, _OBJECT_CLASSES)
        variables = _variables(model, image, method="layers")
        programs[name] = Program(model.apply, (variables, image, jnp.array([sizes.detected])))
    return _beside(
        programs, lambda others: others.detection(sizes.depth, _OBJECT_CLASSES, image), rounds
    )


# By the name of the pass.
PASSES: dict[str, Callable[[Sizes, int], Networks]] = {
    "ResNet, inference": classification,
    "ResNet, training step": training,
    "Faster R-CNN, inference": detection,
}


def _beside(
    programs: Mapping[str, Program | Steps],
    of_torchvision: Callable[[TorchvisionNetworks], Callable[[], object]],
    rounds: int,
) -> Networks:
    """Times our networks and torchvision's in turns."""
    platform = jax.default_backend()
    layouts = torchvision_networks.all_layouts(platform)
    others = {name: of_torchvision(networks) for name, networks in layouts.items()}
    times = in_turns({**programs, **others}, rounds)
    ours = {
        name: Network(times[name], program.compile_seconds, program.temporary_bytes)
        for name, program in programs.items()
    }
    theirs = {name: Network(times[name], None, None) for name in others}
    torch = next((each.torch.__version__ for each in layouts.values()), None)
    return Networks(platform, machine.description(), torch, {**ours, **theirs})


def _resnets(sizes: Sizes) -> Iterator[tuple[str, ResNet, Any]]:
    """Ours with their variables, by name."""
    image, _ = _batch(sizes)
    downsamplers: dict[str, Downsampler] = {OURS: "strided", f"{OURS}, CARAFE++": "carafe"}
    for name, downsampler in downsamplers.items():
        model = ResNet(ResNetConfig(sizes.depth, downsampler), _CLASSES)
        yield name, model, _variables(model, image)


def _batch(sizes: Sizes) -> tuple[jax.Array, jax.Array]:
    """Random images and labels."""
    shape = sizes.batch, sizes.side, sizes.side, 3
    return jax.random.normal(jax.random.key(0), shape), jnp.arange(sizes.batch) % _CLASSES


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
