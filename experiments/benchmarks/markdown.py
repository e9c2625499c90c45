"""Tables in Markdown, which can be printed a row at a time."""

from collections.abc import Iterable, Sequence


def head(columns: Sequence[str], text_columns: int) -> str:
    """The first two lines of a table; columns after the first few are numbers."""
    rule = ["---" if number < text_columns else "---:" for number in range(len(columns))]
    return f"{row(columns)}\n|{'|'.join(rule)}|"


def row(cells: Iterable[object]) -> str:
    """A line of a table."""
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def digits(value: float) -> str:
    """Three digits or more."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
