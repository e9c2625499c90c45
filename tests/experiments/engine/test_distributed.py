"""Tests in one process; several processes are tested with the programs that they run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engine.config import ConfigError
from experiments.engine.distributed import gather_bytes
from experiments.engine.distributed_config import Distributed


@pytest.mark.parametrize(
    ("flags", "name", "got"),
    [
        ({"coordinator": "host", "processes": 2, "process": 0}, "coordinator", "'host'"),
        ({"coordinator": ":80", "processes": 2, "process": 0}, "coordinator", "':80'"),
        ({"coordinator": "host:99999", "processes": 2, "process": 0}, "coordinator", "99999"),
        ({"coordinator": "host:80", "processes": 0, "process": 0}, "processes", "0"),
        ({"coordinator": "host:80", "processes": 2, "process": 2}, "process", "2"),
        ({"coordinator": "host:80"}, "processes and process", "None"),
        ({"auto": True, "coordinator": "host:80", "processes": 2, "process": 0}, "auto", "True"),
        ({"cpu_devices": 0}, "cpu_devices", "0"),
    ],
)
def test_invalid_options_are_named(flags, name, got):
    with pytest.raises(ConfigError, match=f"{name} must be .*{got}"):
        Distributed(**flags)


def test_without_a_cluster_auto_is_refused():
    """Runs in its own process, because processes must connect before JAX is used."""
    program = (
        "from experiments.engine.distributed import start\n"
        "from experiments.engine.distributed_config import Distributed\n"
        "from experiments.engine.config import ConfigError\n"
        "try:\n"
        "    start(Distributed(auto=True))\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    # Environment variables of a cluster must be removed.
    names = {"HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH"} & os.environ.keys()
    variables = {name: os.environ[name] for name in names}
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.startswith("auto must be ")


def test_a_single_process_gathers_its_own_bytes():
    assert gather_bytes(b"some") == [b"some"]
    assert gather_bytes(b"") == [b""]
