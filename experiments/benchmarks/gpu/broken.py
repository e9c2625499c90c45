"""What hung or crashed, and is not asked for again."""

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.children import Finished
from experiments.benchmarks.gpu.kernels import PASSES, Family, Kernel
from experiments.benchmarks.gpu.outcomes import BROKEN


class Broken:
    """Kernels and cases that hung or crashed, or spoiled their CUDA context.

    A kernel that breaks alone is left out in every case. Where several kernels run in a step, the
    case that broke is known but not its kernel: its whole family is left out, but for the cases
    that came to their end.
    """

    def __init__(self) -> None:
        self.kernels = set[Kernel]()
        self.variants = set[str]()
        self._families = set[Family]()
        self._ended = set[Case]()

    def note(self, finished: Finished) -> None:
        """Keeps what a step tells."""
        about, found = finished.step.about, finished.verdict
        self._ended |= {
            Case.from_json(values["case"]) for values in found.measured if "repeats" in values
        }
        if found.outcome not in BROKEN:
            return
        if "kernel" in about:
            self.kernels.add(Kernel(*about["kernel"]))
        elif "variant" in about:
            self.variants.add(about["variant"])
        else:
            # A process that crashes while it compiles does not say which of its cases it was.
            cases = [found.case] if found.case else about.get("cases", [])
            self._families |= {Family.of(Case.from_json(case)) for case in cases}

    def serves(self, case: Case, kernel: str) -> bool:
        """Whether a kernel may run in a case."""
        if Kernel(case.operator, kernel, case.dtype) in self.kernels:
            return False
        return case in self._ended or Family.of(case) not in self._families

    def passes(self, case: Case) -> list[str]:
        """Passes of a case that may run."""
        return [
            name
            for name, kernels in PASSES[case.operator].items()
            if all(self.serves(case, kernel) for kernel in kernels)
        ]

    def serves_all(self, case: Case) -> bool:
        """Whether every pass may run."""
        return len(self.passes(case)) == len(PASSES[case.operator])
