"""The examples of the README, as code."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def examples() -> list[str]:
    """The Python blocks of the README, in order."""
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def expected_output(example: str) -> list[str]:
    """What an example says that it prints: the comments behind its calls of ``print``."""
    return re.findall(r"^\s*print\(.*\)  # (.*)$", example, flags=re.MULTILINE)
