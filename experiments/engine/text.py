"""What other people wrote, such as names of files, as text that can be shown and kept."""

import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any

# Control characters, halves of surrogate pairs, by which Python stands for bytes that are no
# UTF-8, and separators of lines and paragraphs.
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}
# These change the order of what follows: "photo\u202egpj.exe" would end in "jpg".
_BIDIRECTIONAL = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}

_SHORT = reprlib.Repr(
    maxlevel=4, maxlist=10, maxtuple=10, maxdict=10, maxlong=40, maxstring=100, maxother=100
)
_LONGEST = 200
_FEW, _FIRST = 20, 6


def printable(text: object) -> str:
    """Escapes in a text what would break or reorder its line, or drive the terminal.

    Args:
        text: such as a path, or an error that names one.

    Returns:
        One line, with Python's escapes. Everything else stays as it is.
    """
    return "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) in _ESCAPED
        or unicodedata.bidirectional(each) in _BIDIRECTIONAL
        else each
        for each in str(text)
    )


def encodable(text: object) -> str:
    """Escapes in a text what is no UTF-8; all else stays, also control characters."""
    return str(text).encode(errors="backslashreplace").decode()


def shown(value: Any) -> str:
    """Writes a value for the message of an error: shortened, however long or deep it is.

    Args:
        value: of a file that somebody else may have written.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def listed(entries: Sequence[str]) -> str:
    """Joins the entries of a message: all of a few, at most 20, and the first six of more."""
    return "; ".join(entries if len(entries) <= _FEW else [*entries[:_FIRST], "..."])
