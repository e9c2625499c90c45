"""The kernels, as far as the first run tells them apart, without JAX."""

from typing import NamedTuple

from experiments.benchmarks.cases import Case

# Which kernels a pass of an operator takes.
PASSES = {
    "reassemble": {"forward": ("forward",), "backward": ("dx", "dw")},
    "carafe": {"forward": ("forward",), "backward": ("dx", "dlogits")},
}


class Kernel(NamedTuple):
    """A kernel alone."""

    operator: str
    name: str
    dtype: str


class Family(NamedTuple):
    """Cases whose kernels are compiled alike: what spoils one of them may spoil the others."""

    operator: str
    dtype: str
    kernel_size: int
    downsamples: bool

    @classmethod
    def of(cls, case: Case) -> "Family":
        """That a case belongs to."""
        return cls(case.operator, case.dtype, case.kernel_size, case.down > 1)
