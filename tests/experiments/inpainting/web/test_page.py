import sys
from pathlib import Path

import pytest

from experiments.inpainting.web.page import ServeError, serve

RUNS = Path("none"), Path("none")
OPTIONS = None, False, "newest"


def test_missing_gradio_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ServeError, match=r"pip install .*\[web\]"):
        serve(*RUNS, "localhost", 0, *OPTIONS)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port):
    with pytest.raises(ServeError, match=f"port.*65535.* {port}$"):
        serve(*RUNS, "localhost", port, *OPTIONS)
