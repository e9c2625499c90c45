"""The GPU kernels, right and how fast: `python -m experiments.benchmarks.gpu`.

One command for a machine with a Hopper or datacenter Blackwell GPU, in less than 8 minutes. It
prints Markdown, row by row:

1. *checks*: both forms of the operator and their gradients against float64, and against
   themselves, run again; then the bandwidth of a copy and the cost of a dispatch;
2. *operators*: times beside the floor, the time in which a copy moves every byte that has to move
   once, and beside XLA;
3. *layers*: the CARAFE layer and its parts;
4. *torch*: two forms of the operator in PyTorch, if that is installed with CUDA.

`--json PATH` keeps the numbers too. Rows that `--budget-seconds` leaves no time for are listed at
the end. The exit code is 1 if a check or a measurement failed, and 2 without a GPU that the
kernels support. Besides the package it needs no other than JAX, Flax and NumPy.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from carafe_kernels.mosaic_gpu.device import device_reason

from carafe_jax.differentiation import Implementation
from carafe_jax.linen import CARAFE, KernelPredictor
from experiments.benchmarks.gpu import torch_baselines
from experiments.benchmarks.gpu.checks import (
    CHECKS,
    RESULTS,
    Arrays,
    Check,
    expected_results,
    kernel_dtype,
    kernel_shape,
    operator,
    random_operands,
    run_check,
)
from experiments.benchmarks.gpu.reference import Case
from experiments.benchmarks.gpu.report import (
    Column,
    Report,
    Times,
    microseconds,
    one_line,
    ratio,
    say,
    table_head,
    table_row,
    total,
)
from experiments.benchmarks.gpu.timing import (
    copy_bandwidth,
    dispatch_microseconds,
    set_count,
    time_calls,
)

SECTIONS = ("checks", "operators", "layers", "torch")
IMPLEMENTATIONS: tuple[Implementation, ...] = ("mosaic_gpu", "xla")

# Of the budget: what the checks may take before other sections, and what the operators leave to the
# sections after them.
CHECK_SECONDS = 120
LAYER_SECONDS = 60
TORCH_SECONDS = 90
# What a row may still take that begins before the end of its time.
TORCH_ROW_SECONDS = 30

ORACLE_THREADS = 4
# Below this floor a dispatch takes longer than the kernel, and calls are launched together.
SHORT_MICROSECONDS = 30
CALLS_TOGETHER = 4

# What tells most comes first, as time may run out.
_SHAPES = {
    "FPN": Case(2, 50, 84, 256, up=2),
    "ResNet res3": Case(64, 56, 56, 256, down=2),
    "mask head": Case(512, 14, 14, 256, up=2),
    "U-Net": Case(32, 128, 128, 64, up=2),
    "FPN, large": Case(2, 100, 168, 256, up=2),
    "FPN, small": Case(2, 25, 42, 256, up=2),
    "ResNet stem": Case(64, 112, 112, 64, down=2),
    "ResNet, 128 channels": Case(64, 56, 56, 128, down=2),
    "ResNet res4": Case(64, 28, 28, 512, down=2),
    "ResNet res5": Case(64, 14, 14, 1024, down=2),
}
_DTYPES = ("float32", "bfloat16")


def _in(dtype: str, *names: str) -> tuple[Case, ...]:
    return tuple(dataclasses.replace(_SHAPES[name], dtype=dtype) for name in names)


OPERATOR_CASES = tuple(
    dataclasses.replace(case, dtype=dtype) for case in _SHAPES.values() for dtype in _DTYPES
)
LAYER_CASES = tuple(
    case for name in ("FPN", "ResNet res3") for dtype in _DTYPES for case in _in(dtype, name)
)
TORCH_CASES = (
    *_in("float32", "FPN"),
    *_in("bfloat16", "FPN", "ResNet res3", "mask head"),
    *_in("float32", "ResNet res3", "mask head", "U-Net"),
)


@dataclasses.dataclass(frozen=True)
class Clock:
    """Seconds since ``start``, and how many of them there are."""

    start: float
    budget: float

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def has(self, seconds: float = 0) -> bool:
        """Whether more than ``seconds`` are left."""
        return self.elapsed + seconds < self.budget


class Moved(NamedTuple):
    """Bytes that have to move once, in each pass."""

    forward: int
    backward: int


class Operands(NamedTuple):
    """One set of operands of a case."""

    x: jax.Array
    weights: jax.Array
    logits: jax.Array
    dy: jax.Array

    def of(self, fused: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The map, the kernels as weights or logits, and the cotangent."""
        return self.x, self.logits if fused else self.weights, self.dy


def nbytes(shape: Sequence[int], dtype: str) -> int:
    """Of an array."""
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def moved_bytes(case: Case, fused: bool) -> Moved:
    """Bytes of operands that are read and of results that are written, each once."""
    x, y = nbytes(case.x_shape, case.dtype), nbytes(case.y_shape, case.dtype)
    kernels = nbytes(kernel_shape(case, fused), kernel_dtype(case, fused))
    return Moved(forward=x + kernels + y, backward=(x + kernels + y) + (x + kernels))


def calls_at_a_time(floor: float) -> int:
    """How many calls to launch together, from the floor of one in microseconds."""
    return CALLS_TOGETHER if floor < SHORT_MICROSECONDS else 1


def backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients alone; the last argument is the cotangent."""
    return lambda *args: jax.vjp(function, *args[:-1])[1](args[-1])


def with_backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """Output and gradients; the last argument is the cotangent."""

    def run(*args: Any) -> Any:
        y, pullback = jax.vjp(function, *args[:-1])
        return y, *pullback(args[-1])

    return run


def _key() -> jax.Array:
    # Of the generators the one that compiles fastest.
    return jax.random.key(0, impl="rbg")


@functools.partial(jax.jit, static_argnums=0)
def _random_set(case: Case, key: jax.Array) -> Operands:
    shapes = case.x_shape, case.weights_shape, case.logits_shape, case.y_shape
    dtypes = case.dtype, kernel_dtype(case, False), kernel_dtype(case, True), case.dtype
    keys = jax.random.split(key, len(shapes))
    return Operands(*map(jax.random.normal, keys, shapes, map(jnp.dtype, dtypes)))


def random_sets(case: Case) -> list[Operands]:
    """As many sets of operands as do not fit into the cache together."""
    count = set_count(moved_bytes(case, fused=True).forward)
    return [_random_set(case, key) for key in jax.random.split(_key(), count)]


def attempt[Result](
    keep: Callable[[str], None], what: str, run: Callable[[], Result]
) -> Result | None:
    """``run()``; if that raises, ``keep`` is told, and the others still have their turn."""
    try:
        return run()
    except Exception as error:
        keep(f"{what}: {one_line(error)}")
        return None


def run_checks(report: Report, clock: Clock, seconds: float) -> None:
    """Compares every check with float64, which other threads compute in advance."""
    columns = [
        *(Column(heading, number=False) for heading in ("shape", "dtype", "operator")),
        *map(Column, (*RESULTS, "vmap")),
        *(Column(heading, number=False) for heading in ("same bits again", "result")),
    ]
    say(f"\n## Errors, max abs(a - b) / max abs(b)\n\n{table_head(columns)}")

    def prepared(check: Check) -> tuple[Arrays, Arrays]:
        operands = random_operands(check, seed=CHECKS.index(check))
        return operands, expected_results(check, operands)

    with concurrent.futures.ThreadPoolExecutor(ORACLE_THREADS) as pool:
        waiting = [(check, pool.submit(prepared, check)) for check in CHECKS]
        while waiting and clock.has() and clock.elapsed < seconds:
            check, future = waiting.pop(0)
            _report_check(report, check, *future.result())
        pool.shutdown(cancel_futures=True)
    report.skip(*(check for check, _ in waiting))


def _report_check(report: Report, check: Check, operands: Arrays, expected: Arrays) -> None:
    name = "carafe" if check.fused else "reassemble"
    labels = str(check.case), check.case.dtype, name
    # Not by `attempt`: a check that raises has a row too.
    try:
        outcome = run_check(check, operands, expected)
    except Exception as error:
        say(table_row([*labels, *["-"] * (len(RESULTS) + 2), f"FAIL {one_line(error)}"]))
        report.fail(f"{check}: {one_line(error)}")
        return
    vmap_error = "" if outcome.vmap_error is None else f"{outcome.vmap_error:.1e}"
    errors = [f"{error:.1e}" for error in outcome.errors]
    same, result = "yes" if outcome.repeats else "NO", "PASS" if outcome.passed else "FAIL"
    say(table_row([*labels, *errors, vmap_error, same, result]))
    report.add("checks", check=str(check), errors=errors, vmap_error=vmap_error,
               repeats=outcome.repeats, passed=outcome.passed)  # fmt: skip
    if not outcome.passed:
        report.fail(f"{check}: errors {', '.join(errors)} {vmap_error}, same bits again: {same}")


def measure_ceilings(report: Report) -> float:
    """Prints the bandwidth of a copy, which it returns, and the cost of a dispatch."""
    bandwidth, dispatch = copy_bandwidth(), dispatch_microseconds()
    say(f"\nA copy of 1 GiB moves {bandwidth / 1e12:.2f} TB/s, read and written. A call that does "
        f"nothing takes {dispatch:.1f} us.")  # fmt: skip
    report.add("ceilings", bandwidth=bandwidth, dispatch_microseconds=dispatch)
    return bandwidth


def time_operator(
    report: Report,
    case: Case,
    fused: bool,
    implementation: Implementation,
    sets: Sequence[Operands],
    bandwidth: float,
) -> Times:
    """Times both passes of one operator by one implementation."""
    function = operator(case, fused, implementation)
    operands = [each.of(fused) for each in sets]
    floors = moved_bytes(case, fused)

    def median(function: Callable[..., Any], sets: Sequence[Any], moved: int) -> float:
        calls = calls_at_a_time(1e6 * moved / bandwidth)
        return time_calls(function, sets, calls).median

    what = f"{Check(case, fused)} {implementation}"
    forward_operands = [each[:2] for each in operands]
    times = Times(
        attempt(report.fail, f"{what} forward",
                lambda: median(function, forward_operands, floors.forward)),
        attempt(report.fail, f"{what} backward",
                lambda: median(backward(function), operands, floors.backward)),
    )  # fmt: skip
    report.measured[case, fused, implementation] = times
    return times


def operator_columns() -> list[Column]:
    """Of the table of operators."""
    numbers = ("floor", "mosaic_gpu", "floor / mosaic_gpu", "xla", "xla / mosaic_gpu")
    return [
        *(Column(heading, number=False) for heading in ("shape", "dtype", "pass")),
        *map(Column, numbers),
        *(Column(f"carafe {heading}") for heading in numbers),
    ]


def operator_cells(floor: float, mosaic_gpu: float | None, xla: float | None) -> list[str]:
    """Half a row: one operator in one pass."""
    return [
        microseconds(floor),
        microseconds(mosaic_gpu),
        ratio(floor, mosaic_gpu),
        microseconds(xla),
        ratio(xla, mosaic_gpu),
    ]


def run_operators(
    report: Report, clock: Clock, reserved: float, cases: Sequence[Case], bandwidth: float
) -> list[Case]:
    """Prints the rows that there is time for, less what is reserved; returns the other cases."""
    title = "Operators, us: reassemble from given weights, carafe from logits"
    say(f"\n## {title}\n\n{table_head(operator_columns())}")
    for number, case in enumerate(cases):
        if not clock.has(reserved):
            return list(cases[number:])
        sets = attempt(report.fail, f"{case} operands", functools.partial(random_sets, case))
        if sets is None:
            continue
        passes: dict[str, list[str]] = {"forward": [], "backward": [], "both": []}
        for fused in (False, True):
            moved = moved_bytes(case, fused)
            floors = [1e6 * count / bandwidth for count in (*moved, sum(moved))]
            times = {
                name: time_operator(report, case, fused, name, sets, bandwidth)
                for name in IMPLEMENTATIONS
            }
            columns = [(*times[name], total(*times[name])) for name in IMPLEMENTATIONS]
            for cells, floor, *found in zip(passes.values(), floors, *columns, strict=True):
                cells += operator_cells(floor, *found)
            report.add("operators", case=dataclasses.asdict(case), fused=fused, moved_bytes=moved,
                       **{name: pair._asdict() for name, pair in times.items()})  # fmt: skip
        for name, cells in passes.items():
            say(table_row([str(case), case.dtype, name, *cells]))
    return []


def layer_parts(case: Case) -> dict[str, Callable[..., Any]]:
    """The layer by each implementation, its convolutions and its operator, by their headings.

    The layers and their convolutions are functions of variables and map, the operators of map and
    logits.
    """
    options = {"up": case.up, "down": case.down, "dtype": jnp.dtype(case.dtype)}
    layers = {name: CARAFE(**options, implementation=name) for name in IMPLEMENTATIONS}
    predictor = KernelPredictor(**options)

    def convolutions(variables: Any, x: jax.Array) -> Any:
        return predictor.apply({"params": variables["params"]["kernel_predictor"]}, x)

    return {
        **{f"layer {name}": layer.apply for name, layer in layers.items()},
        "convolutions": convolutions,
        **{f"operator {name}": operator(case, True, name) for name in IMPLEMENTATIONS},
    }


def run_layers(report: Report, clock: Clock, reserved: float, bandwidth: float) -> list[Case]:
    """Prints the rows that there is time for, less what is reserved; returns the other cases."""
    parts = [f"{part} {name}" for part in ("layer", "operator") for name in IMPLEMENTATIONS]
    names = [*parts, "convolutions"]
    columns = [
        *(Column(heading, number=False) for heading in ("shape", "dtype", "pass")),
        *map(Column, (*names, "layer xla / mosaic_gpu")),
    ]
    say("\n## The layer and its parts, us\n\n"
        "Convolutions in float32 may use the GPU's TF32, as is JAX's default.\n\n"
        f"{table_head(columns)}")  # fmt: skip
    for number, case in enumerate(LAYER_CASES):
        if not clock.has(reserved):
            return list(LAYER_CASES[number:])
        rows = attempt(
            report.fail, f"{case} layer", functools.partial(_time_layer, report, case, bandwidth)
        )
        for name, times in (rows or {}).items():
            quotient = ratio(times["layer xla"], times["layer mosaic_gpu"])
            cells = [microseconds(times[part]) for part in names]
            say(table_row([str(case), case.dtype, name, *cells, quotient]))
            report.add("layers", case=dataclasses.asdict(case), passes=name, **times)
    return []


def _time_layer(report: Report, case: Case, bandwidth: float) -> dict[str, dict[str, float | None]]:
    sets = random_sets(case)
    # Only the channels decide on the parameters.
    small = jnp.zeros((1, 2 * case.down, 2 * case.down, case.channels), case.dtype)
    predictor = KernelPredictor(up=case.up, down=case.down)
    parameters = jax.jit(predictor.init)(_key(), small)["params"]
    variables = {"params": {"kernel_predictor": parameters}}
    calls = calls_at_a_time(1e6 * moved_bytes(case, fused=True).forward / bandwidth)
    rows: dict[str, dict[str, float | None]] = {"forward": {}, "forward and backward": {}}
    for name, function in layer_parts(case).items():
        operands: list[tuple[Any, ...]]
        if name == "convolutions":
            operands = [(variables, each.x, each.logits) for each in sets]
        elif name.startswith("layer"):
            operands = [(variables, each.x, each.dy) for each in sets]
        else:
            operands = [each.of(fused=True) for each in sets]
        passes: list[tuple[str, Callable[..., Any], Sequence[Any]]] = [
            ("forward", function, [each[:2] for each in operands]),
            ("forward and backward", with_backward(function), operands),
        ]
        for row, run, arguments in passes:
            found = attempt(
                report.fail,
                f"{case} {case.dtype} {name} {row}",
                functools.partial(time_calls, run, arguments, calls),
            )
            rows[row][name] = None if found is None else found.median
    return rows


def run_torch(report: Report, clock: Clock, cases: Sequence[Case], bandwidth: float) -> list[Case]:
    """Prints the rows that there is time for; returns the other cases."""
    try:
        torch = torch_baselines.load()
    except ImportError as error:
        say(f"\nNo times of PyTorch: {one_line(error)}")
        return []
    wrong = attempt(report.skip, "PyTorch", functools.partial(torch_baselines.largest_error, torch))
    if wrong is None or not wrong < torch_baselines.TOLERANCE:
        say(f"\nNo times of PyTorch: its results are wrong by {wrong}")
        return list(cases)
    headings = ("mosaic_gpu", "unfold", "unfold / mosaic_gpu", "tap loop", "tap loop / mosaic_gpu")
    columns = [
        *(Column(heading, number=False) for heading in ("shape", "dtype", "pass")),
        *map(Column, headings),
    ]
    say(f"\n## PyTorch {torch.__version__}, us: unfold and einsum; a loop over taps, compiled\n\n"
        f"The weights there have the dtype of the map.\n\n{table_head(columns)}")  # fmt: skip
    for number, case in enumerate(cases):
        if not clock.has(TORCH_ROW_SECONDS):
            return list(cases[number:])
        ours = report.measured.get((case, False, "mosaic_gpu"))
        if ours is None:
            sets = random_sets(case)
            ours = time_operator(report, case, False, "mosaic_gpu", sets, bandwidth)
        count = set_count(moved_bytes(case, fused=True).forward)
        times = {"mosaic_gpu": (ours.forward, total(*ours))}
        for name in ("unfold", "tap loop"):
            found = attempt(
                report.skip,
                f"{case} {case.dtype} PyTorch {name}",
                functools.partial(torch_baselines.measure, torch, case, name, count),
            )
            times[name] = found or (None, None)
        report.add("torch", case=dataclasses.asdict(case), **times)
        for name, mine, unfold, taps in zip(("forward", "both"), *times.values(), strict=True):
            say(table_row([
                str(case), case.dtype, name, microseconds(mine), microseconds(unfold),
                ratio(unfold, mine), microseconds(taps), ratio(taps, mine),
            ]))  # fmt: skip
    return []


def run_sections(report: Report, clock: Clock, sections: Sequence[str], torch_rows: int) -> None:
    """Runs what was asked for, and then the operators that had to wait for other sections."""
    alone = set(sections) == {"checks"}
    if "checks" in sections:
        run_checks(report, clock, clock.budget if alone else CHECK_SECONDS)
    if alone:
        return
    bandwidth = measure_ceilings(report)
    torch_seconds = TORCH_SECONDS if "torch" in sections and torch_rows else 0
    waiting: list[Case] = []
    if "operators" in sections:
        reserved = torch_seconds + (LAYER_SECONDS if "layers" in sections else 0)
        waiting = run_operators(report, clock, reserved, OPERATOR_CASES, bandwidth)
    if "layers" in sections:
        left_out = run_layers(report, clock, torch_seconds, bandwidth)
        report.skip(*(f"{case} {case.dtype} layer" for case in left_out))
    if torch_seconds:
        left_out = run_torch(report, clock, TORCH_CASES[:torch_rows], bandwidth)
        report.skip(*(f"{case} {case.dtype} PyTorch" for case in left_out))
    if waiting and clock.has():
        waiting = run_operators(report, clock, 0, waiting, bandwidth)
    report.skip(*(f"{case} {case.dtype} operators" for case in waiting))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.gpu",
        description="Checks and times the GPU kernels; prints Markdown tables.",
    )
    parser.add_argument("--budget-seconds", type=float, default=450, metavar="S",
                        help="begin no row after this (default: 450)")  # fmt: skip
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS,
                        help="what to run (default: all)")  # fmt: skip
    parser.add_argument("--torch-rows", type=int, default=4, metavar="N",
                        help=f"of {len(TORCH_CASES)}; each compiles for long (default: 4)",
                        )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep the numbers in a file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = arguments(argv)
    clock = Clock(time.monotonic(), options.budget_seconds)
    device = jax.devices()[0]
    if reason := device_reason(device):
        print(f"nothing to measure: {reason}", file=sys.stderr)
        return 2
    say(f"# {device.device_kind}, JAX {jax.__version__}")
    report = Report(options.json, device=device.device_kind, jax=jax.__version__)
    run_sections(report, clock, options.sections, options.torch_rows)
    for title, lines in (("Not run", report.not_run), ("Failed", report.failures)):
        if lines:
            say(f"\n## {title}\n")
            for line in lines:
                say(f"- {line}")
    say(f"\n{clock.elapsed:.0f} s in all.")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
