"""Which times stand in doubt, as a check of the same kernels failed."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import plan
from experiments.benchmarks.gpu.kernels import PASSES, Family, Kernel
from experiments.benchmarks.gpu.outcomes import UNFINISHED, Outcome

type Steps = Sequence[Mapping[str, Any]]

_NO_FAILURE = UNFINISHED | {Outcome.OK, Outcome.REFUSED}


class Doubts:
    """Of the times of a run.

    Args:
        steps: of its record.
    """

    def __init__(self, steps: Steps) -> None:
        self._kernels, self._variants = set[Kernel](), set[str]()
        self._cases, self._families = set[Case](), set[Family]()
        for step in steps:
            if step["phase"] in (plan.SMOKE, plan.RIGHT):
                self._note(step)

    def _note(self, step: Mapping[str, Any]) -> None:
        # What failed before the time was over is known, however the step ended.
        failed = [values for values in step["measured"] if values.get("passed") is False]
        self._cases.update(Case.from_json(values["case"]) for values in failed)
        if step["outcome"] in _NO_FAILURE and not failed:
            return
        about = step["about"]
        cases = [Case.from_json(case) for case in about.get("cases", ())]
        if "kernel" in about:
            self._kernels.add(Kernel(*about["kernel"]))
        elif "variant" in about:
            self._variants.add(about["variant"])
        elif step["phase"] == plan.SMOKE:  # of small maps that are not timed themselves
            self._families.update(map(Family.of, cases))
        else:
            self._cases.update(cases)

    def of(self, case: Case, name: str, variant: str = "") -> bool:
        """Whether a check failed of the kernels that a pass of a case takes.

        Args:
            case: that was timed.
            name: of the pass: ``"forward"``, ``"backward"`` or ``"both"``.
            variant: of the kernels, if not the default.
        """
        taken = [kernel for each, kernels in PASSES[case.operator].items() for kernel in kernels
                 if name in (each, "both")]  # fmt: skip
        return (
            variant in self._variants
            or case in self._cases
            or Family.of(case) in self._families
            or any(Kernel(case.operator, kernel, case.dtype) in self._kernels for kernel in taken)
        )
