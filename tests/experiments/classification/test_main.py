"""Tests the command line in this process."""

import re
import sys
from pathlib import Path

import pytest

from experiments.classification import __main__ as command_line
from experiments.classification import convert as conversion


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"convert.*--weights.*--to.*got \[\]"),
        ("table2-resnet50 --weights w --to torchvision", r"got \['--weights', '--to'\]"),
        ("table2-resnet50 --from timm", r"got \['--from'\]"),
        ("--run r --output o", r"got \['--run'\]"),
        ("--to torchvision --output o", r"got \['--to'\]"),
        ("--weights w", "config.*preset.*None"),
        ("table2-resnet50 --to torchvision --run r --output o", "config.*left out with --to"),
        ("--to torchvision --run r", "output.*None"),
        ("--to torchvision --run r --output o --keep fc", "keep.*--to.*'fc'"),
        ("--to torchvision --run r --output o --runs a", "runs.*--to.*'a'"),
        ("table2-resnet50 --weights w --checkpoint best", "checkpoint.*--weights.*'best'"),
    ],
)
def test_convert_needs_one_direction(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["classification", "convert", *options.split()])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    printed, error = capsys.readouterr()
    assert (ended.value.code, printed, len(error.splitlines())) == (2, "", 1)
    assert re.match(f"error: .*{message}", error), error


@pytest.mark.parametrize(
    ("options", "library"),
    [((), "torchvision"), (("--from", "timm"), "timm"), (("--from", "torchvision"), "torchvision")],
)
def test_the_library_of_the_weights_is_recorded(options, library, monkeypatch, capsys):
    recorded = []
    monkeypatch.setattr(conversion, "convert", lambda *arguments: recorded.append(arguments) or [])
    arguments = ("convert", "table2-resnet50", "--weights", "w", "--output", "o", *options)
    monkeypatch.setattr(sys, "argv", ["classification", *arguments])
    command_line.main()
    assert capsys.readouterr().out == "o\n"
    ((_, *found),) = recorded
    assert found == [Path("w"), Path("o"), (), library]
