from pathlib import Path

import pytest

from experiments.benchmarks import machine


@pytest.mark.parametrize(
    ("cpuinfo", "processor", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: new\nmodel name\t: other\n", "x86_64",
         "Some CPU @ 2 GHz: new"),
        ("processor\t: 0\n", "aarch64", "aarch64"),
        ("processor\t: 0\n", "", "CPU"),
        (None, "arm", "arm"),
    ],
)  # fmt: skip
def test_the_processor_name_comes_from_cpuinfo_or_platform(
    cpuinfo, processor, expected, monkeypatch, tmp_path
):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(
        machine, "Path", lambda name: path if name == "/proc/cpuinfo" else Path(name)
    )
    monkeypatch.setattr(machine.platform, "processor", lambda: processor)
    assert machine.cpu_name() == expected
