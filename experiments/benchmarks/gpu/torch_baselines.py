"""Times the operator in PyTorch on the same GPU.

PyTorch is imported only when needed. Without it, or without its CUDA support, nothing is timed.
"""

import importlib
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import reference
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.timing import BATCH_SECONDS, BATCHES, set_count
from experiments.benchmarks.torch_operator import Form, with_gradient

_SMALL = (Case(2, 5, 6, 4, up=2), Case(2, 7, 6, 4, down=2))
TOLERANCE = 1e-5


def load() -> Any:
    """The module ``torch``; raises ``NotImplementedError`` if it or a CUDA device is missing."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise NotImplementedError("PyTorch is not installed") from error
    if not torch.cuda.is_available():
        raise NotImplementedError("PyTorch sees no CUDA device")
    return torch


def largest_error(torch: Any, form: Form, device: str = "cuda") -> float:
    """The largest error of a form and its gradients, in float64 at small shapes."""
    errors = []
    rng = np.random.default_rng(0)
    for case in _SMALL:
        x, weights, dy = (
            rng.standard_normal(shape) for shape in (case.x_shape, case.weights_shape, case.y_shape)
        )
        expected = (
            reference.forward(case, x, weights),
            reference.input_gradient(case, weights, dy),
            reference.weight_gradient(case, x, dy),
        )
        tensors = [form.arranged(torch.from_numpy(a).to(device)) for a in (x, weights, dy)]
        # The form is not compiled here: that would take longer than a step may take.
        results = with_gradient(torch, form.written(torch, case))(*tensors)
        found = [form.channels_last(result.detach()).cpu().numpy() for result in results]
        errors += [np.abs(a - b).max() for a, b in zip(found, expected, strict=True)]
    return float(np.max(errors))


def random_tensors(torch: Any, case: Case, count: int, form: Form) -> list[Any]:
    """Random sets of map, weights and cotangent, in the layout of a form."""

    def tensor(shape: tuple[int, ...], dtype: str) -> Any:
        return form.arranged(torch.randn(shape, dtype=getattr(torch, dtype), device="cuda"))

    return [tuple(tensor(*each) for each in case.operands.values()) for _ in range(count)]


def time_calls(torch: Any, function: Callable[..., Any], sets: Sequence[Any]) -> float:
    """Median microseconds of a call, from CUDA events around batches on rotating operands."""
    turns = itertools.cycle(sets)

    def batch(repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            function(*next(turns))
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / repeats  # milliseconds

    batch(2 * len(sets))
    repeats = max(round(1e3 * BATCH_SECONDS / batch(4)), len(sets))
    return 1e3 * statistics.median(batch(repeats) for _ in range(BATCHES))


def torch_operator(reporter: Reporter, case: Mapping[str, Any], form: str) -> str:
    """Times the forward pass alone and with the backward pass.

    Args:
        reporter: reporter that sends messages to the parent process.
        case: the case in JSON; the weights get the dtype of the map.
        form: value of a :class:`Form`.
    """
    reporter.stage("importing PyTorch")
    torch, written = load(), Form(form)
    given = Case.from_json(case)
    given = given.replace(weights_dtype=given.dtype)  # PyTorch multiplies tensors of one dtype
    reporter.stage("checking")
    error = largest_error(torch, written)
    if not error < TOLERANCE:
        reporter.wrong(f"{form} has an error of {error:.1e}")
        return "not timed"
    function = written.operator(torch, given)
    times = {}
    with reporter.device_alone():
        sets = random_tensors(torch, given, set_count(given.moved.forward), written)
        passes: dict[str, tuple[Callable[..., Any], list[Any]]] = {
            "forward": (function, [operands[:2] for operands in sets]),
            "both": (with_gradient(torch, function), sets),
        }
        for name, (run, operands) in passes.items():
            reporter.stage(f"compiling and running {name}")
            with torch.set_grad_enabled(name == "both"):
                times[name] = time_calls(torch, run, operands)
            reporter.measured(
                **{"case": case, "form": form, "pass": name, "microseconds": times[name]}
            )
    return ", ".join(f"{name} {time:.4g} us" for name, time in times.items())
