"""Makes text from outside, such as file names, safe to print and to save."""

import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Any

# Control characters, lone surrogates (which Python uses for bytes that are not UTF-8), and
# separators of lines and paragraphs.
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}
# These reorder the text after them: "photo\u202egpj.exe" would seem to end in "jpg".
_BIDIRECTIONAL = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}

_SHORT = reprlib.Repr(
    maxlevel=4, maxlist=10, maxtuple=10, maxdict=10, maxlong=40, maxstring=100, maxother=100
)
_LONGEST = 200
_FEW, _FIRST = 20, 6


def printable(text: object) -> str:
    """Escapes characters that would break or reorder a line, or control the terminal.

    Args:
        text: text such as a path, or an error message with a path.

    Returns:
        One line, with Python's escapes for these characters and the rest unchanged.
    """
    return "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) in _ESCAPED
        or unicodedata.bidirectional(each) in _BIDIRECTIONAL
        else each
        for each in str(text)
    )


def encodable(text: object) -> str:
    """Escapes characters that UTF-8 cannot encode; control characters are kept."""
    return str(text).encode(errors="backslashreplace").decode()


def shown(value: Any) -> str:
    """Formats a value for an error message, shortened if it is long or deeply nested.

    Args:
        value: value from a file, which may be damaged.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def listed(entries: Sequence[str]) -> str:
    """Joins the entries of a message: all if there are at most 20, otherwise the first six."""
    return "; ".join(entries if len(entries) <= _FEW else [*entries[:_FIRST], "..."])
