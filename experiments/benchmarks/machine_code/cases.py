"""The cases that kernels are compiled for: maps of 100x100 pixels of every supported kind."""

from typing import Any

import jax

from experiments.benchmarks.cases import Case
from experiments.benchmarks.machine_code.h100 import Shape


def case(*, channels: int = 256, **options: Any) -> Case:
    """A case with two maps of 100x100 pixels."""
    return Case(2, 100, 100, channels, **options)


def label(case: Case) -> str:
    """The label of a table row."""
    scale = f"up {case.up}" if case.up > 1 else f"down {case.down}"
    groups = f", {case.groups} groups" if case.groups > 1 else ""
    source = f"{case.normalizer} of" if case.normalizer else "weights in"
    return (
        f"{scale}, k={case.kernel_size}{groups}, C={case.channels}, {case.dtype}, "
        f"{source} {case.kernels_dtype}"
    )


CASES = (
    *(
        case(**scale, dtype=dtype)
        for scale in ({"up": 2}, {"down": 2})
        for dtype in ("float32", "bfloat16")
    ),
    *(
        case(**scale, dtype=dtype, normalizer="softmax")
        for scale in ({"up": 2}, {"down": 2})
        for dtype in ("float32", "bfloat16", "float16")
    ),
    case(up=2, normalizer="sigmoid_normalized"),
    case(kernel_size=3, up=2, normalizer="softmax"),
    case(kernel_size=7, up=2, normalizer="softmax"),
    case(up=3, normalizer="softmax"),
    case(up=4),
    case(kernel_size=7, up=4),
    case(down=3, normalizer="softmax"),
    case(kernel_size=7, down=2, normalizer="softmax"),
    case(up=2, groups=2, dtype="bfloat16", normalizer="softmax"),
    case(down=2, normalizer="softmax", channels=16),
)

# Cases for which every contraction has two kernels.
VARIANTS = (
    case(up=2, dtype="bfloat16"),
    case(up=2, dtype="bfloat16", normalizer="softmax"),
    case(up=2, dtype="float16", normalizer="softmax"),
    case(kernel_size=3, up=2, dtype="bfloat16"),
    case(kernel_size=3, up=2, dtype="bfloat16", normalizer="softmax"),
    case(up=2, groups=2, dtype="bfloat16", normalizer="softmax"),
)
GRADIENTS = tuple(
    case(**scale, dtype=dtype, normalizer=normalizer)
    for scale in ({"up": 2}, {"down": 2})
    for dtype in ("float32", "bfloat16")
    for normalizer in (None, "softmax")
)

PROGRAMS = (
    *(case(up=2, dtype=dtype) for dtype in ("float32", "bfloat16")),
    *(Case(64, 112, 112, 64, down=2, dtype=dtype) for dtype in ("float32", "bfloat16")),
    case(up=3, dtype="bfloat16"),
    case(kernel_size=7, up=2, dtype="bfloat16"),
    Case(2, 25, 42, 100, up=2, dtype="bfloat16"),
)


def shapes(case: Case, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the operands of a case, by name."""
    return {name: shape(*operand) for name, operand in case.operands.items()}
