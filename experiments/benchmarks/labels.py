"""Labels of cases, by which commands choose them."""

from collections.abc import Sequence

from experiments.benchmarks.cases import Case
from experiments.engine.config import check


def label(case: Case) -> str:
    """Of a row."""
    scale = f"up {case.up}" if case.up > 1 else f"down {case.down}"
    sizes = "x".join(map(str, case.x_shape))
    return f"{scale}, k={case.kernel_size}, {sizes}, {case.dtype}"


def matching(cases: Sequence[Case], part: str) -> list[Case]:
    """The cases that have ``part`` in their label; raises ``ConfigError`` if none has."""
    found = [case for case in cases if part in label(case)]
    check(bool(found), "cases", f"in one of {'; '.join(map(label, cases))}", part)
    return found
