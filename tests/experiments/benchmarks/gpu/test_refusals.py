import shutil
import subprocess
from unittest import mock

import jax
import pytest

from experiments.benchmarks.gpu import bringup, machine
from tests.experiments.benchmarks.gpu.fake_children import results, run_with
from tests.experiments.benchmarks.gpu.programs import python


def test_without_a_gpu_the_run_ends_with_a_message(tmp_path):
    completed = python("from experiments.benchmarks.gpu.bringup import main; import sys; "
                       "sys.exit(main(sys.argv[1:]))", "--out", str(tmp_path))  # fmt: skip
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert completed.stderr.startswith("no GPU to run the kernels on: NotImplementedError: this ")
    assert "needs an NVIDIA GPU" in completed.stderr or "they need an NVIDIA" in completed.stderr
    assert results(tmp_path)["ended"] == "no card"


def test_an_unsupported_compute_capability_is_refused(monkeypatch):
    ampere = mock.Mock(
        spec=jax.Device, platform="gpu", device_kind="NVIDIA A100", compute_capability="8.0"
    )
    monkeypatch.setattr(jax, "devices", lambda: [ampere])
    with pytest.raises(NotImplementedError, match=r"A100 has compute capability 8\.0"):
        machine.card(mock.Mock(), any_device=False)


@pytest.mark.parametrize(("card", "code"), [("refused", 2), ("exception", 2)])
def test_a_card_that_is_refused_ends_the_run(tmp_path, capsys, card, code):
    assert run_with({"card": card}, tmp_path) == code
    err = capsys.readouterr().err
    assert err.startswith("no GPU to run the kernels on: ")
    assert err.count("\n") == 1
    assert [step["name"] for step in results(tmp_path)["steps"]] == ["card and versions"]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("card", ["error after a measurement", "segfault", "wrong"])
def test_a_card_that_was_found_is_used_despite_errors(tmp_path, card):
    assert run_with({"card": card}, tmp_path) == 1
    assert results(tmp_path)["ended"] == "complete"


@pytest.mark.parametrize(
    "error", [OSError("no such file"), subprocess.TimeoutExpired("nvidia-smi", 20)]
)
def test_the_card_is_used_without_nvidia_smi(reporter, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", fails)
    assert "driver None" in machine.card(reporter, any_device=True)
    assert reporter.messages("measured")[-1] == {"driver": None}


@pytest.mark.parametrize("seed", ["-5", "2147483648", "1.5", "x"])
def test_an_invalid_seed_is_refused(tmp_path, capsys, seed):
    try:
        code = bringup.main(["--out", str(tmp_path / "out"), "--seed", seed])
    except SystemExit as error:
        code = error.code
    assert code == 2
    err = capsys.readouterr().err
    assert "--seed" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("budget", ["104", "0", "-1", "nan", "inf", "much"])
def test_a_budget_that_is_too_small_is_refused(tmp_path, capsys, budget):
    try:
        code = bringup.main(["--out", str(tmp_path / "out"), "--budget", budget])
    except SystemExit as error:
        code = error.code
    assert code == 2
    err = capsys.readouterr().err
    assert "--budget" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert bringup.main(["--out", str(tmp_path / "file" / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("--out must be a folder that can be written: ")
    assert err.count("\n") == 1
