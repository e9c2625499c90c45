import sys
from pathlib import Path

import pytest

from experiments.inpainting.web.page import ServeError, serve


def test_gradio_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ServeError, match=r"pip install .*\[web\]"):
        serve(Path("none"), Path("none"))


@pytest.mark.parametrize("port", [-1, 65536])
def test_there_is_no_such_port(port):
    with pytest.raises(ServeError, match=f"port.*65535.* {port}$"):
        serve(Path("none"), Path("none"), port=port)
