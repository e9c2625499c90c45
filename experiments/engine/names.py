"""Names of files, which may hold any bytes but 0 and "/", as text that can be shown and kept."""

import sys
import unicodedata

# Control characters, halves of surrogate pairs, by which Python stands for bytes that are no
# UTF-8, and separators of lines and paragraphs.
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}


def printable(text: object) -> str:
    """Escapes in a text what would break its line, or drive the terminal, as Python writes it.

    Args:
        text: such as a path, or an error that names one.

    Returns:
        One line. Everything else stays as it is.
    """
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in _ESCAPED else each
        for each in str(text)
    )


def encodable(text: object) -> str:
    """Escapes in a text what is no UTF-8; control characters stay, for JSON has its own escapes."""
    return str(text).encode(errors="backslashreplace").decode()


def escape_on_output() -> None:
    """Makes standard output escape what its encoding lacks, as standard error does already."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
