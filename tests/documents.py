"""The README and the pages of the documentation: their examples, as code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / "docs").rglob("*.md")))


def examples(document: Path) -> list[str]:
    """The Python blocks of a document, in order."""
    text = document.read_text()
    found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(found) == text.count("```python"), f"a block of {document} begins in a column"
    return found


def expected_output(example: str) -> list[str]:
    """What an example says that it prints: the comments behind its calls of ``print``."""
    return re.findall(r"^\s*print\(.*\)  # (.*)$", example, flags=re.MULTILINE)
