import sys
from pathlib import Path

import pytest

from experiments.inpainting.web.page import ServeError, serve

RUNS = Path("none"), Path("none")
OPTIONS = None, False, "newest"


def test_gradio_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ServeError, match=r"pip install .*\[web\]"):
        serve(*RUNS, "localhost", 0, *OPTIONS)


@pytest.mark.parametrize("port", [-1, 65536])
def test_there_is_no_such_port(port):
    with pytest.raises(ServeError, match=f"port.*65535.* {port}$"):
        serve(*RUNS, "localhost", port, *OPTIONS)
