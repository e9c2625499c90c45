"""The cases that are compared with NumPy, without importing JAX."""

from experiments.benchmarks.cases import Case

# Shapes of the detector first, then small maps whose geometries differ in their tiles.
_SHAPES = (
    Case(2, 50, 84, 256, up=2),
    Case(2, 50, 84, 256, up=2, dtype="bfloat16"),
    Case(2, 56, 56, 256, down=2),
    Case(2, 56, 56, 256, down=2, dtype="bfloat16"),
    Case(2, 25, 42, 256, up=2, dtype="float16"),
    Case(3, 21, 19, 256, up=2, groups=2),
    Case(2, 29, 31, 24, kernel_size=3, up=2),
    Case(2, 21, 19, 100, kernel_size=7, up=2, dtype="bfloat16"),
    Case(2, 31, 29, 100, kernel_size=3, down=2),
    Case(2, 27, 33, 24, kernel_size=7, down=2, dtype="bfloat16"),
    Case(2, 17, 23, 24, up=3),
    Case(2, 13, 15, 100, kernel_size=3, up=4, dtype="float16"),
    Case(2, 31, 37, 24, down=3),
    Case(1, 33, 41, 3, up=2),
    Case(2, 25, 27, 24, down=2, groups=2, dtype="bfloat16"),
    Case(2, 11, 13, 100, kernel_size=7, up=3, dtype="bfloat16"),
    Case(1, 29, 35, 3, kernel_size=7, down=3, dtype="float16"),
    Case(2, 9, 11, 24, up=4, dtype="bfloat16"),
    Case(2, 13, 11, 100, kernel_size=3, up=3, groups=2, dtype="float16"),
    Case(2, 19, 23, 256, kernel_size=3, dtype="bfloat16"),
)
_VMAPPED = (Case(2, 29, 31, 24, kernel_size=3, up=2), Case(2, 31, 29, 100, kernel_size=3, down=2))


def _with_weights_and_logits(*cases: Case) -> tuple[Case, ...]:
    return tuple(case.replace(normalizer=each) for case in cases for each in (None, "softmax"))


CHECKS = {
    "real": _with_weights_and_logits(*_SHAPES),
    # For Pallas' interpreter, which takes a tenth of a second for each input pixel.
    "toy": _with_weights_and_logits(Case(1, 3, 2, 8, kernel_size=3, up=2)),
}
VMAPPED = _with_weights_and_logits(*_VMAPPED)
