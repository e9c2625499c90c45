import sys

import pytest

from experiments.data.composed.crops import prepare
from experiments.engine.command_line import run_program
from tests.compilation import few_optimizations
from tests.experiments.data.composed.fake_cutouts import write_fake_cutouts


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """The dataset of crops of the seven photographs, built once."""
    return prepare("pypi", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def cutouts_cache(tmp_path_factory):
    """A folder of drawn cutouts, with the names of the photographed ones."""
    cache = tmp_path_factory.mktemp("cutouts")
    write_fake_cutouts(cache)
    return cache


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory):
    """A folder of tfds datasets, in which tests of all tasks compose scenes."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module", name="few_optimizations")
def compile_with_few_optimizations():
    """See :func:`tests.compilation.few_optimizations`."""
    with few_optimizations():
        yield


@pytest.fixture
def call_main(monkeypatch, capsys):
    """Returns a function that calls a program; it returns exit code, output and errors."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def run_failing(monkeypatch, capsys):
    """Returns a function that runs a failing program and returns exit code and error output."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_program(main)
        return ended.value.code, capsys.readouterr().err

    return run
