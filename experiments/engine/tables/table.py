"""Tables of results, for the terminal and as Markdown."""

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.engine.files import write_atomically
from experiments.engine.presets import Metric
from experiments.engine.text import printable


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and deviation of a metric over runs that differ only in their seeds.

    Attributes:
        mean: mean over the runs.
        deviation: sample standard deviation over the runs; None for a single run.
    """

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Returns the spread of the values of at least one run."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def scaled(self, factor: float) -> Self:
        """Returns the spread of the values multiplied by a positive factor."""
        deviation = None if self.deviation is None else factor * self.deviation
        return type(self)(factor * self.mean, deviation)

    def text(self, digits: int, sign: str = "") -> str:
        """Formats mean and deviation.

        Args:
            digits: number of digits after the decimal point.
            sign: ``"+"`` to write the sign of positive means.
        """
        # Rounded first, to avoid "-0.00".
        text = f"{round(self.mean, digits) + 0.0:{sign}.{digits}f}"
        return text if self.deviation is None else f"{text} ± {self.deviation:.{digits}f}"


Spreads = Mapping[str, Spread]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text with headings.

    Attributes:
        title: title above the table.
        headings: headings of the columns.
        rows: entries of each row, one for each heading.
        labels: number of leading columns that name the row; the others hold numbers.
        groups: name of the group of each row, empty for none. A line with the name stands above the
            first row of a group. Without groups, no row has one.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ``ValueError`` unless there is a group for each row, or none at all."""
        if self.groups and len(self.groups) != len(self.rows):
            raise ValueError(f"groups must be {len(self.rows)} names, got {self.groups}")

    def rich(self) -> RichTable:
        """Returns the table for the terminal."""
        # As Text, which does not interpret markup: the names of folders may look like markup.
        table = RichTable(title=_text(self.title), title_justify="left")
        for number, heading in enumerate(self.headings):
            table.add_column(_text(heading), justify="left" if number < self.labels else "right")
        for group, row in self._lines():
            if group:
                table.add_section()
                table.add_row(_text(group))
            table.add_row(*map(_text, row))
        return table

    def markdown(self) -> str:
        """Returns the table as Markdown, with a line for the title above it."""
        numbers = len(self.headings) - self.labels
        aligned = (*["---"] * self.labels, *["---:"] * numbers)
        lines: list[Iterable[str]] = [map(_escaped, self.headings), aligned]
        for group, row in self._lines():
            if group:
                lines.append((f"*{_escaped(group)}*", *[""] * (len(self.headings) - 1)))
            lines.append(map(_escaped, row))
        return "\n".join(
            [f"{printable(self.title)}:", "", *(f"| {' | '.join(line)} |" for line in lines), ""]
        )

    def _lines(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each row, with the name of its group if the row is the first of it."""
        before = ""
        for group, row in itertools.zip_longest(self.groups, self.rows, fillvalue=""):
            yield (group if group != before else ""), tuple(row)
            before = group


def print_tables(tables: Sequence[Table], notes: Sequence[str] = ()) -> None:
    """Prints tables, and lines of text below them."""
    # A file has no width, so rows are not wrapped there.
    console = Console(width=None if sys.stdout.isatty() else 180)
    for table in tables:
        console.print(table.rich())
    for note in notes:
        console.print(_text(note), soft_wrap=True)


def save_tables(path: Path, tables: Sequence[Table], notes: Sequence[str] = ()) -> None:
    """Writes tables, and lines of text below them, as Markdown, atomically."""
    text = "\n".join(
        [*(table.markdown() for table in tables), *(f"{printable(note)}\n" for note in notes)]
    )
    write_atomically(path, lambda file: file.write(text.encode()))


def _text(text: str) -> Text:
    return Text(printable(text))


def _escaped(text: str) -> str:
    return printable(text).replace("|", r"\|")


def print_metrics(metrics: Sequence[Metric], found: Mapping[str, float]) -> None:
    """Prints the metrics of one evaluation, one in each line.

    Args:
        metrics: metrics of the task; other metrics of the evaluation follow under their own names.
        found: values by the name of the metric.
    """
    known = {metric.name: metric for metric in metrics}
    names = [name for name in known if name in found]
    for name in names:
        print(f"  {known[name].text(known[name].factor * found[name])}")
    for name in found:
        if name not in known:
            print(f"  {name} {found[name]:.4g}")
