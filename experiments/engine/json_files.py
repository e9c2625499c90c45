"""JSON files: written atomically, and validated when they are read."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.engine.files import write_atomically
from experiments.engine.text import shown


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically; raises an error for NaN and infinity."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Reads a JSON file, with or without a byte order mark. NaN and infinity are accepted.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not valid JSON, is nested too deeply, has a number with too many
            digits, or an object with the same key twice.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> Any:
    """Parses JSON from another program, or JSON that may be damaged.

    Args:
        text: JSON with or without a byte order mark. NaN and infinity are accepted; see
            :func:`is_finite`.

    Raises:
        ValueError: the text is not valid JSON, is nested too deeply, has a number with too many
            digits, or an object with the same key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_finite(value: Any) -> bool:
    """Whether a value of a JSON file is a number that a finite float can represent."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_int64(value: Any) -> bool:
    """Whether a value of a JSON file is an integer of 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object must have each key once, got {shown(repeated)} twice")
    return found
