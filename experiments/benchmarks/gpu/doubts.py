"""Marks times of kernels that failed a check."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import plan
from experiments.benchmarks.gpu.kernels import PASSES, Family, Kernel
from experiments.benchmarks.gpu.outcomes import UNFINISHED, Outcome

type Steps = Sequence[Mapping[str, Any]]

_NO_FAILURE = UNFINISHED | {Outcome.OK, Outcome.REFUSED}


class Doubts:
    """The times of a run that are doubtful, because a check of the same kernels failed.

    Args:
        steps: the steps in ``results.json``.
    """

    def __init__(self, steps: Steps) -> None:
        self._kernels, self._variants = set[Kernel](), set[str]()
        self._cases, self._families = set[Case](), set[Family]()
        for step in steps:
            if step["phase"] in (plan.SMOKE, plan.RIGHT):
                self._note(step)

    def _note(self, step: Mapping[str, Any]) -> None:
        # A check that failed counts even if the step ended early.
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
        elif step["phase"] == plan.SMOKE:  # small maps, which are not timed
            self._families.update(map(Family.of, cases))
        else:
            self._cases.update(cases)

    def of(self, case: Case, name: str, variant: str = "") -> bool:
        """Whether a kernel of a pass failed a check.

        Args:
            case: the case that was timed.
            name: name of the pass: ``"forward"``, ``"backward"`` or ``"both"``.
            variant: variant of the kernels, or empty for the default.
        """
        used = [kernel for each, kernels in PASSES[case.operator].items() for kernel in kernels
                 if name in (each, "both")]  # fmt: skip
        return (
            variant in self._variants
            or case in self._cases
            or Family.of(case) in self._families
            or any(Kernel(case.operator, kernel, case.dtype) in self._kernels for kernel in used)
        )
