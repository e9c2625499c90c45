import os
from pathlib import Path

import pytest

from experiments.engine.errors import InputError
from experiments.engine.predictions import predict_each, report

FILES = [Path("a.png"), Path("bad.png"), Path("c.png")]


def stem(file):
    if file.stem == "bad":
        raise InputError(f"image {file} cannot be read")
    return file.stem


def show(file, result):
    print(f"{file}: {result}")


def test_a_file_that_cannot_be_used_does_not_stop_the_others():
    (_, first), (_, error), (_, last) = outcomes = list(predict_each(FILES, stem))
    assert [file for file, _ in outcomes] == FILES
    assert (first, last) == ("a", "c")
    assert isinstance(error, InputError)


def test_a_fault_of_the_program_stops_the_predictions():
    outcomes = predict_each(FILES, lambda file: file.stem.index("a"))
    assert next(outcomes) == (FILES[0], 0)
    assert next(outcomes) == (FILES[1], 1)
    with pytest.raises(ValueError, match="substring"):
        next(outcomes)


def test_a_report_shows_results_prints_errors_and_then_exits_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        report(predict_each(FILES, stem), show)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("a.png: a\nc.png: c\n", "error: image bad.png cannot be read\n")


def test_an_error_with_any_name_is_printed_in_one_line(capsys):
    name = os.fsdecode(b"bad\n\x1b[31m\xff.png")
    error = InputError(f"image {name} cannot be read")
    with pytest.raises(SystemExit):
        report([(Path(name), error)], show)
    shown = r"error: image bad\n\x1b[31m\udcff.png cannot be read"
    assert capsys.readouterr().err == f"{shown}\n"


def test_a_report_without_errors_returns(capsys):
    report(predict_each(FILES[:1], stem), show)
    assert capsys.readouterr() == ("a.png: a\n", "")


def test_predictions_are_reported_as_soon_as_they_are_made():
    events = []
    outcomes = predict_each(FILES[::2], lambda file: events.append(f"predict {file}"))
    report(outcomes, lambda file, _: events.append(f"show {file}"))
    assert events == ["predict a.png", "show a.png", "predict c.png", "show c.png"]
