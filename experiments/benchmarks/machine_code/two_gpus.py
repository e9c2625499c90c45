"""What two GPUs each run of one program, and what they send to each other, compiled without them.

Prints a Markdown table of operators under ``jit``, and exits with 1 if a GPU runs any kernel but
once and on its half, or if they communicate but to sum the gradient of weights that they share.
"""

import dataclasses
import functools
import math
import re
import sys

import jax
import numpy as np
from carafe_kernels.geometry import Geometry
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import carafe_jax
from experiments.benchmarks.machine_code.h100 import gpus

BATCH, SIZE, CHANNELS, GEOMETRY = 4, (48, 64), 256, Geometry(5, up=2)
OUT_SIZE = tuple(map(GEOMETRY.output_size, SIZE))
COLLECTIVES = (
    "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|reduce-scatter"
)
AXIS = "gpus"


@dataclasses.dataclass(frozen=True)
class SharedCall:
    """A call of an operator whose arrays two GPUs share.

    Attributes:
        form: ``"carafe"`` or ``"reassemble"``.
        split: what the GPUs share, ``"batch"`` or ``"channels"`` of the maps.
        axis_type: of the mesh.
        gradients: whether they are computed, too.
    """

    form: str
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


CASES = [
    SharedCall(form, split, axis_type, gradients)
    for split in ("batch", "channels")
    for form in ("carafe", "reassemble")
    for axis_type in (AxisType.Auto, AxisType.Explicit)
    for gradients in (False, True)
]


def compiled(case: SharedCall, devices: list[jax.Device]) -> str:
    """The program of one GPU."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(case.axis_type,))
    by_batch = case.split == "batch"
    of_maps = PartitionSpec(AXIS) if by_batch else PartitionSpec(None, None, None, AXIS)

    def shape(*sizes: int, of_a_map: bool = True) -> jax.ShapeDtypeStruct:
        spec = of_maps if by_batch or of_a_map else PartitionSpec()
        return jax.ShapeDtypeStruct(sizes, "float32", sharding=NamedSharding(mesh, spec))

    places = SIZE if case.form == "carafe" else OUT_SIZE
    last = GEOMETRY.logit_channels if case.form == "carafe" else GEOMETRY.weight_channels
    x, dy = (shape(BATCH, *size, CHANNELS) for size in (SIZE, OUT_SIZE))
    weights = shape(BATCH, *places, last, of_a_map=False)
    operator = functools.partial(
        getattr(carafe_jax, case.form),
        kernel_size=GEOMETRY.kernel_size,
        up=GEOMETRY.up,
        implementation="mosaic_gpu",
    )

    def run(x: jax.Array, weights: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        if not case.gradients:
            return (operator(x, weights),)
        y, pullback = jax.vjp(operator, x, weights)
        return y, *pullback(dy)

    with jax.sharding.set_mesh(mesh):
        text = jax.jit(run).lower(x, weights, dy).compile().as_text()
    assert text is not None, "the CUDA compiler shows its program"
    return text


def kernels(text: str) -> list[str]:
    """What the kernels of a program return: an array, and the share of it that is computed.

    The number of elements identifies an array: no two arrays or halves have the same number here.
    """
    places = math.prod(OUT_SIZE) * GEOMETRY.weight_channels
    whole = {"y": math.prod(OUT_SIZE) * CHANNELS, "x": math.prod(SIZE) * CHANNELS, "dw": places}
    shares = {BATCH * size: name for name, size in whole.items()}
    shares |= {BATCH * size // 2: f"half of {name}" for name, size in whole.items()}
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
    for case in CASES:
        text = compiled(case, devices)
        found = kernels(text), communication(text)
        right = found == case.expected
        wrong |= not right
        computed, sent = (", ".join(names) or "none" for names in found)
        print(
            f"| {case.split} | `{case.form}` | {case.axis_type.name} | {computed} | {sent} |",
            "" if right else f"expected {case.expected}",
            flush=True,
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
