"""What two GPUs each run of one program, and what they send to each other, compiled without them.

Prints a Markdown table of operators under ``jit``, and exits with 1 if a GPU runs any kernel but
once and on its half, or if they communicate but to sum the gradient of weights that they share.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.benchmarks.calls import operator, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.machine_code.h100 import gpus

CASE = Case(4, 48, 64, 256, up=2)
COLLECTIVES = (
    "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|reduce-scatter"
)
AXIS = "gpus"


@dataclasses.dataclass(frozen=True)
class SharedCall:
    """A call of an operator whose arrays two GPUs share.

    Attributes:
        case: what is called.
        split: what the GPUs share, ``"batch"`` or ``"channels"`` of the maps.
        axis_type: of the mesh.
        gradients: whether they are computed, too.
    """

    case: Case
    split: str
    axis_type: AxisType
    gradients: bool

    @property
    def expected(self) -> tuple[list[str], list[str]]:
        """Kernels and communication: maps are halved, and weights where the batch is shared.

        GPUs that share channels share weights, whose gradient is a sum over both.
        """
        if not self.gradients:
            return ["half of y"], []
        if self.split == "batch":
            return ["half of dw", "half of x", "half of y"], []
        return ["dw", "half of x", "half of y"], ["all-reduce"]


CALLS = [
    SharedCall(CASE.replace(normalizer=normalizer), split, axis_type, gradients)
    for split in ("batch", "channels")
    for normalizer in ("softmax", None)
    for axis_type in (AxisType.Auto, AxisType.Explicit)
    for gradients in (False, True)
]


def compiled(call: SharedCall, devices: list[jax.Device]) -> str:
    """The program of one GPU."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(call.axis_type,))
    of_batch, of_channels = PartitionSpec(AXIS), PartitionSpec(None, None, None, AXIS)
    specs = {
        "x": of_batch if call.split == "batch" else of_channels,
        "kernels": of_batch if call.split == "batch" else PartitionSpec(),
        "dy": of_batch if call.split == "batch" else of_channels,
    }
    arguments = [
        jax.ShapeDtypeStruct(*operand, sharding=NamedSharding(mesh, specs[name]))
        for name, operand in call.case.operands.items()
    ]
    run: Callable[..., Any] = operator(call.case, "mosaic_gpu")
    run, arguments = (with_gradients(run), arguments) if call.gradients else (run, arguments[:2])
    with jax.sharding.set_mesh(mesh):
        text = jax.jit(run).lower(*arguments).compile().as_text()
    assert text is not None, "the CUDA compiler shows its program"
    return text


def kernels(text: str) -> list[str]:
    """What the kernels of a program return: an array, and the share of it that is computed.

    The number of elements identifies an array: no two arrays or halves have the same number here.
    """
    whole = {"y": CASE.y_shape, "x": CASE.x_shape, "dw": CASE.weights_shape}
    shares = {math.prod(shape): name for name, shape in whole.items()}
    shares |= {math.prod(shape) // 2: f"half of {name}" for name, shape in whole.items()}
    results = re.findall(r"= f32\[([\d,]+)\]\S* custom-call\(.*mosaic_gpu", text)
    sizes = (math.prod(map(int, result.split(","))) for result in results)
    return sorted(shares.get(size, f"{size} elements") for size in sizes)


def communication(text: str) -> list[str]:
    """The collectives of a program."""
    return sorted(set(re.findall(rf"\b({COLLECTIVES})(?:-start)?\(", text)))


def main() -> None:
    """Prints the table."""
    devices = gpus(2)
    print("| shared | operator | axes | kernels of one GPU compute | communication |")
    print("|---|---|---|---|---|")
    wrong = False
    for call in CALLS:
        text = compiled(call, devices)
        found = kernels(text), communication(text)
        right = found == call.expected
        wrong |= not right
        computed, sent = (", ".join(names) or "none" for names in found)
        print(
            f"| {call.split} | `{call.case.operator}` | {call.axis_type.name} "
            f"| {computed} | {sent} |",
            "" if right else f"expected {call.expected}",
            flush=True,
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
