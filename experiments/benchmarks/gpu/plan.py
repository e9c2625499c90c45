"""The phases of a run, their shares of the budget, and the steps of each phase."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import profilers
from experiments.benchmarks.gpu.broken import Broken
from experiments.benchmarks.gpu.check_cases import CHECKS
from experiments.benchmarks.gpu.children import Step
from experiments.benchmarks.gpu.kernels import PASSES, Kernel
from experiments.benchmarks.torch_operator import Form

CARD, SMOKE, SWITCHES, RIGHT, FAST, WHY = "card", "smoke", "switches", "right", "fast", "why"
# Seconds in a run of 525 seconds. A phase gets its share of the time that is left when it begins,
# so later phases get the time that earlier ones save.
SHARES = {CARD: 15.0, SMOKE: 90.0, SWITCHES: 90.0, RIGHT: 120.0, FAST: 250.0, WHY: 50.0}
SMALLEST_BUDGET = SHARES[CARD] + SHARES[SMOKE]
# Steps of the fast phase compile at the same time; one at a time has the device to measure times.
PARALLEL = {SMOKE: 6, SWITCHES: 6, RIGHT: 6, FAST: 4}
FAST_SECONDS = 90  # three other steps may measure their times first
CARD_SECONDS = 60  # independent of the share: loading libraries from disk may be slow

DTYPES = ("float32", "bfloat16")
NORMALIZERS = (None, "softmax")
CHECK_CHILDREN = 6
SEEDS = 3

MAIN = {
    "up 2": Case(2, 100, 100, 256, up=2),
    "mask head": Case(512, 14, 14, 256, up=2),
    "ResNet stem": Case(64, 112, 112, 64, down=2),
}
# Timed after the operators of the main cases, if there is time.
MORE = {
    "FPN": Case(2, 50, 84, 256, up=2),
    "ResNet res3": Case(64, 56, 56, 256, down=2),
    "U-Net": Case(32, 128, 128, 64, up=2),
    "FPN, large": Case(2, 100, 168, 256, up=2),
    "FPN, small": Case(2, 25, 42, 256, up=2),
    "ResNet res4": Case(64, 28, 28, 512, down=2),
    "ResNet res5": Case(64, 14, 14, 1024, down=2),
}
# With 320 channels, a block fills and awaits each of its buffers more than once.
SMOKE_CASE = Case(2, 19, 21, 320, up=2)
_SMOKE_DOWN = Case(2, 21, 19, 320, down=2)
SMOKE_MORE = {
    "down 2, all kernels": (_SMOKE_DOWN, _SMOKE_DOWN.replace(normalizer="softmax")),
    "k=7 up 4, all kernels": (Case(2, 9, 11, 320, kernel_size=7, up=4, dtype="bfloat16"),),
}

# Pallas' interpreter takes a tenth of a second for each input pixel.
TOY = {"toy": Case(1, 2, 3, 16, kernel_size=3, up=2)}
TOY_MORE = {"down 2, all kernels": (Case(1, 4, 2, 16, kernel_size=3, down=2),)}
TOY_SEEDS = 1
INTERPRETER_SLOWNESS = 2


# Variants of the kernels besides the default, by the kernels that they change: `forward`, or
# `gradients`, which are both gradients of a backward pass. The values are settings.
VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "forward": {
        "multiply_add": {"forward": "multiply_add"},
        "bands": {"forward": "bands"},
    },
    "gradients": {
        "apart": {"gradients": "apart"},
        "together": {"gradients": "together"},
        "dx_bands": {"gradients": "apart", "input_gradient": "bands"},
        "dw_products": {"gradients": "apart", "weight_gradient": "products"},
        "tensor_cores_together": {
            "gradients": "together", "input_gradient": "bands", "weight_gradient": "products"
        },
    },
}  # fmt: skip
# The other variants are the single kernels.
SMOKED_VARIANTS = ("bands", "together", "dx_bands", "dw_products", "tensor_cores_together")
# Kernels whose counters are read, those that have never been measured first: dtype, name, and
# variant, which is empty for the default.
COUNTED = (
    ("bfloat16", "dx", "dx_bands"),
    ("bfloat16", "dw", "dw_products"),
    ("bfloat16", "forward", ""),
    ("bfloat16", "dx", ""),
    ("bfloat16", "dw", ""),
    ("float32", "forward", ""),
)

# Formulations of the operator in PyTorch.
FORMS = (Form.UNFOLD, Form.COMPILED)

# Name of the layer that uses the kernels.
OUR_LAYER = "CARAFE mosaic_gpu"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Makes the steps of each phase.

    Args:
        seeds: seeds of the random operands in the smoke phase.
        scratch: folder for the reports of profilers and for the lock of the device.
        interpret: whether kernels run in Pallas' interpreter, at tiny sizes.
    """

    seeds: Sequence[int]
    scratch: Path
    interpret: bool = False

    @property
    def _dtypes(self) -> tuple[str, ...]:
        return DTYPES[:1] if self.interpret else DTYPES

    def command(self, do: str, seconds: float, options: Mapping[str, Any]) -> list[str]:
        """The command of a child process, see ``child.py``.

        Args:
            do: name of the function to run.
            seconds: time limit.
            options: arguments of the function.
        """
        spec = {"do": do, "seconds": seconds, "parent": os.getpid(), "interpret": self.interpret,
                "lock": str(self.scratch / "device.lock"), "options": options}  # fmt: skip
        return [sys.executable, "-m", "experiments.benchmarks.gpu.child", json.dumps(spec)]

    def step(
        self, phase: str, name: str, do: str, seconds: float, options: Mapping[str, Any],
        **about: Any,
    ) -> Step:  # fmt: skip
        """A step that runs a function in a child process."""
        seconds *= INTERPRETER_SLOWNESS if self.interpret else 1
        return Step(phase, name, self.command(do, seconds, options), seconds, about)

    def card(self) -> Step:
        """The step that describes the machine."""
        return self.step(
            CARD, "card and versions", "card", CARD_SECONDS, {"any_device": self.interpret}
        )

    def ceilings(self) -> Step:
        """The step that measures memory bandwidth and dispatch time."""
        return self.step(CARD, "copy and dispatch", "ceilings", 30, {"small": self.interpret})

    def smoke(self) -> Iterator[Step]:
        """Steps for each kernel, for each further geometry, and for each variant."""
        case, more = (TOY["toy"], TOY_MORE) if self.interpret else (SMOKE_CASE, SMOKE_MORE)
        options: dict[str, Any]
        for dtype in self._dtypes:
            for normalizer in NORMALIZERS:
                one = case.replace(dtype=dtype, normalizer=normalizer)
                for kernels in PASSES[one.operator].values():
                    for kernel in kernels:
                        about = {"kernel": Kernel(one.operator, kernel, dtype),
                                 "case": one.to_json()}  # fmt: skip
                        options = {"cases": [one.to_json()], "kernel": kernel,
                                   "seeds": self.seeds, "settings": {}}  # fmt: skip
                        yield self.step(SMOKE, " ".join(about["kernel"]), "smoke", 45, options,
                                        **about)  # fmt: skip
        for name, others in more.items():
            cases = [other.to_json() for other in others]
            options = {"cases": cases, "kernel": None, "seeds": self.seeds, "settings": {}}
            yield self.step(SMOKE, name, "smoke", 45, options, cases=cases)
        smoked = [
            (variant, settings, changed)
            for changed, variants in VARIANTS.items()
            for variant, settings in variants.items()
            if variant in SMOKED_VARIANTS
        ]
        for variant, settings, changed in smoked:
            cases = [one.replace(dtype=dtype).to_json()
                     for one in _both_operators(case) for dtype in self._dtypes]  # fmt: skip
            options = {"cases": cases, "kernel": changed, "seeds": self.seeds, "settings": settings}
            yield self.step(SMOKE, f"variant {variant}, {changed}", "smoke", 45, options,
                            variant=variant)  # fmt: skip

    def switched(self, failed: Step, switches: Mapping[str, Mapping[str, Any]]) -> Iterator[Step]:
        """Repetitions of a smoke step, each with one setting changed."""
        kernel = Kernel(*failed.about["kernel"])
        for switch, changes in switches.items():
            options = {"case": failed.about["case"], "kernel": kernel.name, "seeds": self.seeds,
                       "settings": {}, "one_step": False, **changes}  # fmt: skip
            yield self.step(SWITCHES, f"{' '.join(kernel)}, {switch}", "switched", 30, options,
                            **failed.about, switch=switch)  # fmt: skip

    def right(self, broken: Broken) -> Iterator[Step]:
        """Steps that compare main cases with XLA in float64, and XLA and the checks with NumPy."""
        size = "toy" if self.interpret else "real"
        yield self.step(RIGHT, "XLA in float64 against NumPy", "reference", 60, {"size": size})
        for label, case in self._cases(TOY if self.interpret else MAIN):
            cases = [one.to_json() for one in _both_operators(case) if broken.may_run_all(one)]
            if cases:
                yield self.step(RIGHT, label, "right", 90, {"cases": cases, "seed": self.seeds[0]},
                                cases=cases)  # fmt: skip
        checked = [(seed, case.to_json()) for seed, case in enumerate(CHECKS[size])
                   if broken.may_run_all(case)]  # fmt: skip
        children = min(len(checked), 1 if self.interpret else CHECK_CHILDREN)
        for part in range(children):
            yield self.step(RIGHT, f"checks, part {part + 1} of {children}", "checks", 90,
                            {"cases": checked[part::children]})  # fmt: skip

    def _cases(self, cases: Mapping[str, Case]) -> Iterator[tuple[str, Case]]:
        for name, case in cases.items():
            for dtype in self._dtypes:
                yield f"{name} {dtype}", case.replace(dtype=dtype)

    def fast(self, broken: Broken) -> Iterator[Step]:
        """Steps that measure times, the most important first, because time may run out."""
        main = [*self._cases(TOY if self.interpret else MAIN)]
        for label, case in main:
            yield from self._operators(label, case, "mosaic_gpu", broken)
            yield from self._operators(label, case, "xla")
        if not self.interpret:
            for label, case in self._cases(MORE):
                yield from self._operators(label, case, "mosaic_gpu", broken)
                yield from self._operators(label, case, "xla")
        for label, case in main:
            may_run = broken.may_run_all(case.replace(normalizer="softmax"))
            options = {"case": case.to_json(), "leave_out_kernels": not may_run}
            yield self.step(FAST, f"{label}, layers", "layers", FAST_SECONDS, options,
                            case=case.to_json())  # fmt: skip
        if not self.interpret:
            for form in FORMS:
                for label, case in main:
                    options = {"case": case.to_json(), "form": form}
                    name = f"{label}, {form}"
                    yield self.step(FAST, name, "torch_operator", FAST_SECONDS, options,
                                    case=case.to_json())  # fmt: skip

    def _operators(
        self, label: str, case: Case, implementation: str, broken: Broken | None = None
    ) -> Iterator[Step]:
        broken = broken or Broken()  # other implementations do not use our kernels
        runs = [
            {"case": one.to_json(), "passes": passes}
            for one in _both_operators(case)
            if (passes := broken.passes(one))
        ]
        variants = [
            each for found in VARIANTS.values() for each in found if each not in broken.variants
        ]
        if runs:
            options = {"runs": runs, "implementation": implementation,
                       "variants": variants if implementation == "mosaic_gpu" else []}  # fmt: skip
            name = f"{label}, {'ours' if implementation == 'mosaic_gpu' else implementation}"
            about = {"case": case.to_json(), "implementation": implementation}
            yield self.step(FAST, name, "operators", FAST_SECONDS, options, **about)

    def why(self, broken: Broken) -> Iterator[Step]:
        """Steps that read counters of single kernels and check their memory accesses."""
        if self.interpret:
            return
        up = MAIN["up 2"]
        settings = {name: each for found in VARIANTS.values() for name, each in found.items()}
        for dtype, name, variant in COUNTED:
            kernel, case = Kernel("reassemble", name, dtype), up.replace(dtype=dtype)
            if variant in broken.variants or not broken.may_run(case, name):
                continue
            about = {"kernel": kernel, "case": case.to_json(), "variant": variant}
            command = self.command("one_kernel", 60, {
                "case": case.to_json(), "kernel": name,
                "settings": settings[variant] if variant else {},
            })  # fmt: skip
            label = " ".join(filter(None, ("ncu", *kernel, variant)))
            yield profilers.counters(WHY, label, command, 60, about, self.scratch)
        command = self.command("smoke", 90, {
            "cases": [SMOKE_CASE.to_json()], "kernel": "forward", "seeds": self.seeds[:1],
            "settings": {},
        })  # fmt: skip
        yield profilers.memory_check(WHY, "memcheck reassemble forward float32", command, 90,
                                     self.scratch)  # fmt: skip


def _both_operators(case: Case) -> tuple[Case, ...]:
    return tuple(case.replace(normalizer=normalizer) for normalizer in NORMALIZERS)
