import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Prints the page faults of four calls whose result is an array of 64 MB.
COUNT_FAULTS = """
import resource
import jax
import jax.numpy as jnp

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

increment, x = jax.jit(lambda x: x + 1), jnp.ones((16, 1024, 1024))
for _ in range(3):
    increment(x).block_until_ready()
before = faults()
for _ in range(4):
    increment(x).block_until_ready()
print(faults() - before)
"""


def run_as_demo(folder, executable, program, **environment):
    """What `EXECUTABLE -c PROGRAM` prints where `make demo` starts it in place of the demo."""
    (folder / "bin").mkdir()
    (folder / ".complete").touch()
    python = folder / "bin" / "python"
    python.write_text('#!/bin/sh\nexec "$COMMAND" -c "$PROGRAM"\n')
    python.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    made = subprocess.run(
        ["make", "--silent", "demo", f"VENV={folder}"],
        env=inherited | environment | {"COMMAND": executable, "PROGRAM": program},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


def has_huge_pages():
    """Whether malloc can have them: glibc 2.35 reads the variable, and the system grants them."""
    name, version = platform.libc_ver()
    new = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return new and HUGE_PAGES.exists() and "[never]" not in HUGE_PAGES.read_text()


def test_the_demo_asks_for_huge_pages(tmp_path):
    found = run_as_demo(tmp_path, "/bin/sh", "echo $GLIBC_TUNABLES")
    assert found == "glibc.malloc.hugetlb=1"


@pytest.mark.slow
@pytest.mark.skipif(not has_huge_pages(), reason="no glibc 2.35, or no huge pages")
def test_in_the_demo_large_arrays_lie_in_huge_pages(tmp_path):
    # In pages of 4 kB these are 16,384 faults for each array.
    assert int(run_as_demo(tmp_path, sys.executable, COUNT_FAULTS)) < 4 * 1000


@pytest.mark.parametrize("own", ["glibc.malloc.check=0", ""])
def test_the_demo_keeps_what_the_user_sets(own, tmp_path):
    found = run_as_demo(tmp_path, "/bin/sh", "echo $GLIBC_TUNABLES", GLIBC_TUNABLES=own)
    assert found == own
