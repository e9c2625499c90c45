"""Compiles sharded operators for two GPUs, on a machine without a GPU.

Prints a table in Markdown: the kernels that each GPU runs, and the communication between them.
Exits with 1 unless each GPU runs every kernel once and on its half, and the GPUs communicate only
to sum the gradient of replicated weights.
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
    """A call of an operator whose maps are sharded over two GPUs.

    Attributes:
        case: operator and shapes of the call.
        split: the sharded axis of the maps, ``"batch"`` or ``"channels"``.
        axis_type: axis type of the mesh.
        gradients: whether the call computes the gradients, too.
    """

    case: Case
    split: str
    axis_type: AxisType
    gradients: bool

    @property
    def expected(self) -> tuple[list[str], list[str]]:
        """The expected kernels and communication.

        Each GPU has half of every map. If the batch is sharded, it also has half of the weights. If
        the channels are sharded, the weights are replicated, and their gradient is a sum over GPUs.
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
    """The text of the program that each GPU runs."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(call.axis_type,))
    by_batch, by_channels = PartitionSpec(AXIS), PartitionSpec(None, None, None, AXIS)
    specs = {
        "x": by_batch if call.split == "batch" else by_channels,
        "kernels": by_batch if call.split == "batch" else PartitionSpec(),
        "dy": by_batch if call.split == "batch" else by_channels,
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
    """The results of a program's kernels: names of arrays, or of halves of arrays.

    The number of elements identifies an array, because all arrays and halves differ in size.
    """
    whole = {"y": CASE.y_shape, "x": CASE.x_shape, "dw": CASE.weights_shape}
    shares = {math.prod(shape): name for name, shape in whole.items()}
    shares |= {math.prod(shape) // 2: f"half of {name}" for name, shape in whole.items()}
    results = re.findall(r"= f32\[([\d,]+)\]\S* custom-call\(.*mosaic_gpu", text)
    sizes = (math.prod(map(int, result.split(","))) for result in results)
    return sorted(shares.get(size, f"{size} elements") for size in sizes)


def communication(text: str) -> list[str]:
    """The collective operations of a program."""
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
