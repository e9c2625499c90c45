"""Prints tables of a run: ``python -m experiments.benchmarks.gpu.tables results.json``.

The tables are in Markdown. A dash means that a number was not measured. Runs that ended early have
tables, too. The exit code is 2 if the file is not a record of a run.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import plan
from experiments.benchmarks.gpu.doubts import Doubts, Steps
from experiments.benchmarks.markdown import digits, head, row

NONE = "-"
DOUBTFUL = " (!)"
# Exceptions for files that are not records: numbers may be huge, and lists deeply nested.
_NO_RECORD = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
              RecursionError)  # fmt: skip


def microseconds(value: float | None) -> str:
    """A number with at least three significant digits, or a dash for ``None``."""
    if value is None:
        return NONE
    return digits(value)


def marked(value: float | None, doubtful: bool) -> str:
    """Microseconds, with a mark if a check of the kernels failed."""
    return microseconds(value) + (DOUBTFUL if doubtful and value is not None else "")


def ratio(numerator: float | None, denominator: float | None) -> str:
    """A quotient, or a dash if a number was not measured."""
    return NONE if numerator is None or not denominator else f"{numerator / denominator:.2f}"


def total(*values: float | None) -> float | None:
    """The sum, or ``None`` if a number was not measured."""
    return None if None in values else sum(value for value in values if value is not None)


def scientific(value: object) -> str:
    """An error in scientific notation; NaN is stored as text."""
    return f"{value:.1e}" if isinstance(value, float) else NONE if value is None else str(value)


class Timed(NamedTuple):
    """Identifies a measured time."""

    case: Case
    name: str  # name of the pass
    by: str  # implementation and variant, form of PyTorch, or layer


def about(results: Mapping[str, Any]) -> str:
    """Describes the machine and the run."""
    machine = results["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in machine.get("versions", {}).items()
    )
    bandwidth, dispatch = machine.get("bandwidth"), machine.get("dispatch_microseconds")
    copied = f"{bandwidth / 1e12:.2f} TB/s" if bandwidth else "not measured"
    called = f"{dispatch:.1f} us" if dispatch else "not measured"
    ended = results["ended"] or "still running, or killed"
    toy = ", **tiny shapes in an interpreter on a CPU**" if results["interpret"] else ""
    return (
        f"{machine.get('card', 'Card not known')}, driver {machine.get('driver', NONE)}, "
        f"{versions or 'versions not known'}{toy}. `{results['command']}`, {results['started']}, "
        f"seed {results['seed']}; ended after {results['seconds']:.0f} s: {ended}. A copy of "
        f"1 GiB, read and written: {copied}; a call that does nothing: {called}."
    )


def times(steps: Steps) -> dict[Timed, float]:
    """All measured times in microseconds; the last one if something was timed twice."""
    found = {}
    for step in steps:
        if step["phase"] != plan.FAST:
            continue
        for measured in step["measured"]:
            if "microseconds" not in measured:
                continue
            if "variant" in measured:
                by = f"{step['about']['implementation']} {measured['variant']}"
            else:
                by = measured.get("form") or measured["layer"]
            case = Case.from_json(measured["case"])
            found[Timed(case, measured["pass"], by)] = measured["microseconds"]
    return found


def operators(steps: Steps, bandwidth: float | None) -> Iterator[str]:
    """Times of both operators, compared with the floor, XLA and PyTorch."""
    found, doubts = times(steps), Doubts(steps)
    cases = dict.fromkeys(
        timed.case for timed in found if timed.by in ("mosaic_gpu default", "xla default")
    )
    columns = ["shape", "dtype", "operator", "pass", "floor", "ours", "floor / ours", "xla",
               "xla / ours"]  # fmt: skip
    yield head([*columns, *(f"{form}{part}" for form in plan.FORMS for part in ("", " / ours"))], 4)

    def by(case: Case, name: str, implementation: str) -> float | None:
        if name == "both":
            return total(*(by(case, each, implementation) for each in ("forward", "backward")))
        return found.get(Timed(case, name, f"{implementation} default"))

    for case in cases:
        for name in ("forward", "backward", "both"):
            moved = sum(case.moved) if name == "both" else getattr(case.moved, name)
            floor = 1e6 * moved / bandwidth if bandwidth else None
            ours, xla = by(case, name, "mosaic_gpu"), by(case, name, "xla")
            entries = [case, case.dtype, case.operator, name, microseconds(floor),
                     marked(ours, doubts.of(case, name)), ratio(floor, ours), microseconds(xla),
                     ratio(xla, ours)]  # fmt: skip
            for form in plan.FORMS:
                other = found.get(Timed(case, name, form))
                entries += [microseconds(other), ratio(other, ours)]
            yield row(entries)


def variants(steps: Steps) -> Iterator[str]:
    """Times of the variants of the kernels."""
    doubts = Doubts(steps)
    yield head(
        ["shape", "dtype", "operator", "pass", "variant", "us", "difference from default"], 5
    )
    for step in steps:
        for measured in step["measured"]:
            if step["about"].get("implementation") != "mosaic_gpu":
                continue
            case = Case.from_json(measured["case"])
            if "same_as" in measured:
                shown = f"as {measured['same_as']}"
            elif "refused" in measured:
                shown = "refused"
            else:
                doubtful = doubts.of(case, measured["pass"], measured["variant"])
                shown = marked(measured["microseconds"], doubtful)
            difference = scientific(measured.get("difference"))
            yield row([case, case.dtype, case.operator, measured["pass"], measured["variant"],
                       shown, difference])  # fmt: skip


def layers(steps: Steps) -> Iterator[str]:
    """Times of whole layers."""
    yield head(["shape", "dtype", "layer", "forward", "forward and backward"], 3)
    found, doubts = times(steps), Doubts(steps)
    names = dict.fromkeys(
        (Case.from_json(measured["case"]), measured["layer"])
        for step in steps for measured in step["measured"] if "layer" in measured
    )  # fmt: skip
    for case, name in names:
        inside = case.replace(normalizer="softmax")  # the operator that the layer calls
        numbers = [
            marked(found.get(Timed(case, each, name)),
                   name == plan.OUR_LAYER and doubts.of(inside, each))
            for each in ("forward", "both")
        ]  # fmt: skip
        yield row([case, case.dtype, name, *numbers])


def errors(steps: Steps) -> Iterator[str]:
    """Errors of all comparisons with float64."""
    yield head(["shape", "dtype", "operator", "against", "y", "dx", "dw or dlogits", "vmap",
                "same bits in a second run"], 4)  # fmt: skip
    for step in steps:
        for measured in step["measured"]:
            if step["phase"] != plan.RIGHT or "repeats" not in measured:
                continue
            case, found = Case.from_json(measured["case"]), measured["errors"]
            against, numbers = (
                ("XLA", found.values()) if isinstance(found, Mapping) else ("NumPy", found)
            )
            yield row([case, case.dtype, case.operator, against, *map(scientific, numbers),
                       scientific(measured.get("vmap_error")),
                       "yes" if measured["repeats"] else "NO"])  # fmt: skip


def outcomes(steps: Steps) -> Iterator[str]:
    """The outcome of every step."""
    yield head(["phase", "step", "outcome", "s", "detail"], 3)
    for step in steps:
        yield row([step["phase"], step["name"], step["outcome"], f"{step['seconds']:.1f}",
                   step["detail"]])  # fmt: skip


def counters(steps: Steps) -> Iterator[str]:
    """Counters of the profiler, with a column for each kernel."""
    found = {
        step["name"]: measured["counters"]
        for step in steps for measured in step["measured"] if "counters" in measured
    }  # fmt: skip
    yield head(["counter", *found], 1)
    for name in sorted({name for kept in found.values() for name in kept}):
        yield row([name, *(kept.get(name, NONE) for kept in found.values())])


def document(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines of all tables that have rows."""
    yield about(results)
    steps = results["steps"]
    sections = {
        "Operators, us; floor: time to copy the bytes that must be moved once": operators(
            steps, results["machine"].get("bandwidth")
        ),
        "Variants of the kernels": variants(steps),
        "Layers, us; float32 convolutions may use TF32, JAX's default": layers(steps),
        "Errors, max abs(a - b) / max abs(b)": errors(steps),
        "Counters": counters(steps),
        "Steps": outcomes(steps),
    }
    doubtful = False
    for title, lines in sections.items():
        first, *others = lines
        if others:
            yield f"\n## {title}\n\n{first}"
            yield from others
        doubtful |= any(DOUBTFUL in line for line in others)
    if doubtful:
        yield f"\n{DOUBTFUL.strip()}: a check of these kernels failed."
    for title, key in (("Conclusions", "conclusions"), ("Not run", "not_run")):
        if results[key]:
            yield f"\n## {title}\n"
            yield from (f"- {line}" for line in results[key])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code."""
    paths = sys.argv[1:] if argv is None else argv
    if len(paths) != 1:
        print("usage: python -m experiments.benchmarks.gpu.tables results.json", file=sys.stderr)
        return 2
    try:
        results = json.loads(Path(paths[0]).read_text())
        lines = [*document(results)]
    except _NO_RECORD as error:
        print(
            f"{paths[0]} is not a record of a run: {type(error).__name__}: {error}", file=sys.stderr
        )
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
