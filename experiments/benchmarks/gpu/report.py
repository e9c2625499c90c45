"""Tables in Markdown, row by row, and the numbers of all of them in a file."""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from carafe_jax.differentiation import Implementation
from experiments.benchmarks.gpu.reference import Case
from experiments.engine.files import write_json


@dataclasses.dataclass(frozen=True)
class Column:
    """Of a table; numbers are set to the right."""

    heading: str
    number: bool = True


class Times(NamedTuple):
    """Microseconds of each pass; ``None`` where it failed."""

    forward: float | None
    backward: float | None


class Report:
    """Prints tables row by row, and keeps all numbers in a file, should the process end early.

    Args:
        path: of the JSON file, or ``None``.
        about: what the file says of the machine.

    Attributes:
        measured: times of operators, by case, whether from logits, and implementation.
    """

    def __init__(self, path: Path | None, **about: Any) -> None:
        self._path = path
        self.measured: dict[tuple[Case, bool, Implementation], Times] = {}
        self._record: dict[str, Any] = {**about, "failures": [], "not_run": []}
        self._write()

    @property
    def failures(self) -> list[str]:
        return cast("list[str]", self._record["failures"])

    @property
    def not_run(self) -> list[str]:
        return cast("list[str]", self._record["not_run"])

    def add(self, section: str, **values: Any) -> None:
        """Keeps a row."""
        self._record.setdefault(section, []).append(values)
        self._write()

    def fail(self, what: str) -> None:
        """Keeps a failure, and prints it where it does not interrupt a table."""
        print(what, file=sys.stderr, flush=True)
        self.failures.append(what)
        self._write()

    def skip(self, *rows: object) -> None:
        """Keeps what was not run."""
        self.not_run.extend(map(str, rows))
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_json(self._path, self._record)


def say(text: str) -> None:
    """Prints at once, also into a pipe."""
    print(text, flush=True)


def table_head(columns: Sequence[Column]) -> str:
    """The first two lines of a Markdown table."""
    rule = "|".join("---:" if column.number else "---" for column in columns)
    return f"{table_row([column.heading for column in columns])}\n|{rule}|"


def table_row(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def microseconds(value: float | None) -> str:
    """Three digits or more, or a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(numerator: float | None, denominator: float | None) -> str:
    """A quotient, or a dash if a part of it was not measured."""
    return "-" if numerator is None or denominator is None else f"{numerator / denominator:.2f}"


def total(*values: float | None) -> float | None:
    """The sum, or ``None`` if a part of it was not measured."""
    return None if None in values else sum(value for value in values if value is not None)


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first[:200]}"
