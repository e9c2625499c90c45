"""Tables of a run, in Markdown: ``python -m experiments.benchmarks.gpu.tables results.json``.

Shows what was measured and nothing else: a dash stands where there is no number. Runs that were cut
short have tables too. Exit code 2 if the file is no record of a run.
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
# What a file that is no record raises: numbers may be huge, and lists nested without end.
_NO_RECORD = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
              RecursionError)  # fmt: skip


def microseconds(value: float | None) -> str:
    """Three digits or more, or a dash for what was not measured."""
    if value is None:
        return NONE
    return digits(value)


def marked(value: float | None, doubtful: bool) -> str:
    """Microseconds, and a mark if a check failed of what they belong to."""
    return microseconds(value) + (DOUBTFUL if doubtful and value is not None else "")


def ratio(numerator: float | None, denominator: float | None) -> str:
    """A quotient, or a dash if a part of it was not measured."""
    return NONE if numerator is None or not denominator else f"{numerator / denominator:.2f}"


def total(*values: float | None) -> float | None:
    """The sum, or ``None`` if a part of it was not measured."""
    return None if None in values else sum(value for value in values if value is not None)


def scientific(value: object) -> str:
    """An error; NaN comes as text."""
    return f"{value:.1e}" if isinstance(value, float) else NONE if value is None else str(value)


class Timed(NamedTuple):
    """What a time belongs to."""

    case: Case
    name: str  # of the pass
    by: str  # implementation and variant, form of PyTorch, or layer


def about(results: Mapping[str, Any]) -> str:
    """Where and how the numbers came about."""
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
    """Microseconds of everything that was timed; where it was twice, the last."""
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
    """Times of both operators beside the floor, XLA and PyTorch."""
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
            cells = [case, case.dtype, case.operator, name, microseconds(floor),
                     marked(ours, doubts.of(case, name)), ratio(floor, ours), microseconds(xla),
                     ratio(xla, ours)]  # fmt: skip
            for form in plan.FORMS:
                other = found.get(Timed(case, name, form))
                cells += [microseconds(other), ratio(other, ours)]
            yield row(cells)


def variants(steps: Steps) -> Iterator[str]:
    """Programs that the kernels can be compiled to, beside each other."""
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
    """Whole layers."""
    yield head(["shape", "dtype", "layer", "forward", "forward and backward"], 3)
    found, doubts = times(steps), Doubts(steps)
    names = dict.fromkeys(
        (Case.from_json(measured["case"]), measured["layer"])
        for step in steps for measured in step["measured"] if "layer" in measured
    )  # fmt: skip
    for case, name in names:
        inside = case.replace(normalizer="softmax")  # what the layer calls
        numbers = [
            marked(found.get(Timed(case, each, name)),
                   name == plan.OUR_LAYER and doubts.of(inside, each))
            for each in ("forward", "both")
        ]  # fmt: skip
        yield row([case, case.dtype, name, *numbers])


def errors(steps: Steps) -> Iterator[str]:
    """Real shapes and checks against float64."""
    yield head(["shape", "dtype", "operator", "against", "y", "dx", "dw or dlogits", "vmap",
                "same bits again"], 4)  # fmt: skip
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
    """How every step ended."""
    yield head(["phase", "step", "outcome", "s", "what"], 3)
    for step in steps:
        yield row([step["phase"], step["name"], step["outcome"], f"{step['seconds']:.1f}",
                   step["detail"]])  # fmt: skip


def counters(steps: Steps) -> Iterator[str]:
    """Counters of the profiler, a column a kernel."""
    found = {
        step["name"]: measured["counters"]
        for step in steps for measured in step["measured"] if "counters" in measured
    }  # fmt: skip
    yield head(["counter", *found], 1)
    for name in sorted({name for kept in found.values() for name in kept}):
        yield row([name, *(kept.get(name, NONE) for kept in found.values())])


def document(results: Mapping[str, Any]) -> Iterator[str]:
    """All tables that have rows."""
    yield about(results)
    steps = results["steps"]
    sections = {
        "Operators, us; floor: a copy of what has to move once": operators(
            steps, results["machine"].get("bandwidth")
        ),
        "Variants of the kernels": variants(steps),
        "Layers, us; convolutions in float32 may use TF32, as is JAX's default": layers(steps),
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
        print(f"{paths[0]} is no record of a run: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
