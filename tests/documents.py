"""The README and the pages of the documentation: their examples, as code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / "docs").rglob("*.md")))


def examples(document: Path) -> list[str]:
    """The Python blocks of a document, in order."""
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def expected_output(example: str) -> list[str]:
    """What an example says that it prints: the comments behind its calls of ``print``."""
    return re.findall(r"^\s*print\(.*\)  # (.*)$", example, flags=re.MULTILINE)
