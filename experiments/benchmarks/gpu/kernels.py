"""Identifies kernels in the results, without importing JAX."""

from typing import NamedTuple

from experiments.benchmarks.cases import Case

# The kernels of each pass of an operator.
PASSES = {
    "reassemble": {"forward": ("forward",), "backward": ("dx", "dw")},
    "carafe": {"forward": ("forward",), "backward": ("dx", "dlogits")},
}


class Kernel(NamedTuple):
    """A kernel, for all shapes."""

    operator: str
    name: str
    dtype: str


class Family(NamedTuple):
    """Cases with similar programs: an error in one of them is likely in the others."""

    operator: str
    dtype: str
    kernel_size: int
    downsamples: bool

    @classmethod
    def of(cls, case: Case) -> "Family":
        """The family of a case."""
        return cls(case.operator, case.dtype, case.kernel_size, case.down > 1)
