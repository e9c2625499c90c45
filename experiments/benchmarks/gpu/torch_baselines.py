"""The operator in PyTorch, as it is usually written: a baseline on the same GPU.

PyTorch is loaded when it is asked for; without it, or without its CUDA, there is no baseline.
"""

import importlib
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.gpu import reference
from experiments.benchmarks.gpu.reference import Case
from experiments.benchmarks.gpu.timing import BATCH_SECONDS, BATCHES

Operator = Callable[[Any, Any], Any]

_SMALL = (Case(2, 5, 6, 4, up=2), Case(2, 7, 6, 4, down=2))
TOLERANCE = 1e-5


def load() -> Any:
    """The module ``torch``; raises ``ImportError`` if it or its CUDA is not there."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise ImportError("torch sees no CUDA device")
    return torch


def unfold(torch: Any, case: Case) -> Operator:
    """Gathers all patches, then contracts; ``x`` and ``weights`` are channels-first."""
    k, up = case.kernel_size, case.up

    def run(x: Any, weights: Any) -> Any:
        batch, channels, height, width = x.shape
        rows, columns = -(-height // case.down), -(-width // case.down)
        patches = torch.nn.functional.unfold(x, (k, k), padding=k // 2, stride=case.down)
        patches = patches.view(batch, channels, k * k, rows, columns)
        weights = weights.view(batch, k * k, rows, up, columns, up)
        y = torch.einsum("bkqurv,bckqr->bcqurv", weights, patches)
        return y.reshape(batch, channels, rows * up, columns * up)

    return run


def tap_loop(torch: Any, case: Case) -> Operator:
    """Adds up the taps, one shifted view each; for ``torch.compile``, channels-last."""
    k, up, down = case.kernel_size, case.up, case.down

    def run(x: Any, weights: Any) -> Any:
        batch, height, width, channels = x.shape
        rows, columns = -(-height // down), -(-width // down)
        radius = k // 2
        sources = torch.nn.functional.pad(x, (0, 0, radius, radius, radius, radius))
        weights = weights.view(batch, rows, up, columns, up, k * k)
        y: Any = 0
        for n, m in itertools.product(range(k), repeat=2):
            row_end, column_end = n + (rows - 1) * down + 1, m + (columns - 1) * down + 1
            view = sources[:, n:row_end:down, None, m:column_end:down, None]
            y = y + weights[..., n * k + m, None] * view
        return y.reshape(batch, rows * up, columns * up, channels)

    return run


def with_gradient(torch: Any, function: Operator) -> Callable[[Any, Any, Any], Any]:
    """The output and both gradients."""

    def run(x: Any, weights: Any, dy: Any) -> Any:
        x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
        y = function(x, weights)
        return y, *torch.autograd.grad(y, (x, weights), dy)

    return run


def largest_error(torch: Any, device: str = "cuda") -> float:
    """Of the baselines, their gradients included, in float64 at small shapes."""
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
        tensors = [torch.from_numpy(array).to(device) for array in (x, weights, dy)]
        channels_first = [tensor.movedim(3, 1).contiguous() for tensor in tensors]
        last = with_gradient(torch, tap_loop(torch, case))(*tensors)
        first = with_gradient(torch, unfold(torch, case))(*channels_first)
        for found in (last, [tensor.movedim(1, 3) for tensor in first]):
            results = [tensor.detach().cpu().numpy() for tensor in found]
            errors += [np.abs(a - b).max() for a, b in zip(results, expected, strict=True)]
    return float(np.max(errors))


def random_tensors(torch: Any, case: Case, count: int, channels_first: bool) -> list[Any]:
    """Sets of the map, the weights and a cotangent, all in the dtype of the map."""

    def tensor(shape: tuple[int, ...]) -> Any:
        batch, *size, channels = shape
        shape = (batch, channels, *size) if channels_first else shape
        return torch.randn(shape, dtype=getattr(torch, case.dtype), device="cuda")

    shapes = case.x_shape, case.weights_shape, case.y_shape
    return [tuple(map(tensor, shapes)) for _ in range(count)]


def time_calls(torch: Any, function: Callable[..., Any], sets: Sequence[Any]) -> float:
    """Median microseconds of a call between CUDA events, over batches on rotating operands."""
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


def measure(torch: Any, case: Case, name: str, count: int) -> tuple[float, float] | None:
    """Microseconds of forward, and of forward and backward; ``None`` if memory runs out.

    Args:
        torch: the module.
        case: what to compute.
        name: ``"unfold"``, or ``"tap loop"``, which is compiled.
        count: sets of operands to rotate.
    """
    torch.cuda.empty_cache()
    try:
        sets = random_tensors(torch, case, count, channels_first=name == "unfold")
        if name == "unfold":
            function = unfold(torch, case)
        else:
            torch.compiler.reset()
            function = torch.compile(tap_loop(torch, case), dynamic=False)
        with torch.no_grad():
            forward = time_calls(torch, function, [operands[:2] for operands in sets])
        return forward, time_calls(torch, with_gradient(torch, function), sets)
    except torch.cuda.OutOfMemoryError:
        return None
