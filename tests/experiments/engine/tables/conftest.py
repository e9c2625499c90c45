import json

import pytest

from experiments.engine.folders import Folders


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path / "data", tmp_path / "cache", tmp_path / "runs")


@pytest.fixture
def results(folders):
    """Returns a function that reads the JSON results and the Markdown of a table."""

    def read(name):
        output = folders.runs / "toy" / name
        return json.loads((output / "results.json").read_text()), (output / "table.md").read_text()

    return read
