"""Prints tables in Markdown, row by row."""

from collections.abc import Iterable, Sequence


def print_table(
    columns: Sequence[str], text_columns: int, rows: Iterable[Iterable[object]]
) -> None:
    """Prints the header of a table, then each row as soon as it is available."""
    print(head(columns, text_columns), flush=True)
    for entries in rows:
        print(row(entries), flush=True)


def head(columns: Sequence[str], text_columns: int) -> str:
    """The first two lines of a table. The columns after the first ``text_columns`` hold numbers."""
    rule = ["---" if number < text_columns else "---:" for number in range(len(columns))]
    return f"{row(columns)}\n|{'|'.join(rule)}|"


def row(entries: Iterable[object]) -> str:
    """One line of a table."""
    return f"| {' | '.join(str(entry).replace('|', '/') for entry in entries)} |"


def digits(value: float) -> str:
    """A number with at least three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def decimals(value: float | None, count: int) -> str:
    """A number with ``count`` decimals, or a dash for ``None``."""
    return "-" if value is None else f"{value:.{count}f}"


def megabytes(nbytes: int | None, count: int) -> str:
    """Bytes as megabytes with ``count`` decimals, or a dash for ``None``."""
    return "-" if nbytes is None else decimals(nbytes / 1e6, count)
