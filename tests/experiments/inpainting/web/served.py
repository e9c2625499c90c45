"""The page in a process of its own, with models that fill holes with grey."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[4]
GREYS = {"baseline": 100, "CARAFE++": 200}

_SERVER = f"""
import sys
import numpy as np
from experiments.inpainting.web.serve import serve_models

class Grey:
    shapes_compiled = 1

    def __init__(self, value):
        self.value = np.uint8(value)

    def __call__(self, image, hole):
        return np.where(hole[..., None], self.value, image)

models = {{name: Grey(value) for name, value in {GREYS}.items()}}
serve_models(models, "127.0.0.1", int(sys.argv[1]))
"""


class Served(NamedTuple):
    """A page that is being served.

    Attributes:
        port: at 127.0.0.1.
        url: of the page.
        process: that serves it.
        home: where the process starts and what it takes for the user's home: an empty folder.
        temporary: what the process takes for the system's temporary folder; empty before.
        errors: a file of what the process says on stderr.
    """

    port: int
    url: str
    process: subprocess.Popen
    home: Path
    temporary: Path
    errors: Path

    def stop(self):
        """Ends the process as a service manager does; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def serving(folder):
    home, temporary = folder / "home", folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    port = free_port()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        # Matplotlib, which others import, keeps a list of fonts from then on.
        "MPLCONFIGDIR": str(folder),
    }
    errors = folder / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(port)],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    patience = threading.Timer(180, process.kill)
    patience.start()
    try:
        line = process.stdout.readline()
        assert line == f"http://127.0.0.1:{port}/ (ctrl-C to stop)\n", errors.read_text()
        patience.cancel()
        yield Served(port, line.split()[0], process, home, temporary, errors)
    finally:
        patience.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
