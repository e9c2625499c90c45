"""Tests the command line in this process."""

import re
import sys

import pytest

from experiments.classification import __main__ as command_line


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", (), "empty"),
        (b"\x89PNG\r\n\x1a\n", (), "PNG"),
        (b"PK\3\4", (), "damaged"),
        (b"", ("--keep", "foo"), "keep .*'foo'"),
        (None, (), "got nothing"),
    ],
)
def test_weights_that_cannot_be_converted_are_refused_in_one_line(
    content, options, message, tmp_path, monkeypatch, capsys
):
    weights, output = tmp_path / "pytorch_model.bin", tmp_path / "run"
    if content is not None:
        weights.write_bytes(content)
    arguments = ("convert", "table2-resnet50", "--weights", weights, "--output", output, *options)
    monkeypatch.setattr(sys, "argv", ["classification", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    printed, error = capsys.readouterr()
    assert ended.value.code == 2, error
    assert (printed, len(error.splitlines())) == ("", 1)
    assert re.match(f"error: .*{message}", error)
    assert not output.exists()
