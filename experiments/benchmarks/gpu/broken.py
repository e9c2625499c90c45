"""Remembers kernels that hung or crashed, so that they are not run again."""

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.children import Finished
from experiments.benchmarks.gpu.kernels import PASSES, Family, Kernel
from experiments.benchmarks.gpu.outcomes import BROKEN


class Broken:
    """Kernels and cases that hung, crashed or corrupted their CUDA context.

    A kernel that failed in a step of its own is left out in every case. If a step with several
    kernels failed, only the case is known: then the whole family of the case is left out, except
    for cases that finished.
    """

    def __init__(self) -> None:
        self.kernels = set[Kernel]()
        self.variants = set[str]()
        self._families = set[Family]()
        self._ended = set[Case]()

    def note(self, finished: Finished) -> None:
        """Records the outcome of a step."""
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
            # If a process crashes while it compiles, the case is not known.
            cases = [found.case] if found.case else about.get("cases", [])
            self._families |= {Family.of(Case.from_json(case)) for case in cases}

    def may_run(self, case: Case, kernel: str) -> bool:
        """Whether a kernel may run in a case."""
        if Kernel(case.operator, kernel, case.dtype) in self.kernels:
            return False
        return case in self._ended or Family.of(case) not in self._families

    def passes(self, case: Case) -> list[str]:
        """Passes of a case that may run."""
        return [
            name
            for name, kernels in PASSES[case.operator].items()
            if all(self.may_run(case, kernel) for kernel in kernels)
        ]

    def may_run_all(self, case: Case) -> bool:
        """Whether every pass may run."""
        return len(self.passes(case)) == len(PASSES[case.operator])
