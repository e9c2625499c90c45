"""A web page on which two trained models fill the same hole."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from experiments.inpainting.prediction.inpainter import load_inpainter
from experiments.inpainting.web.address import Address, AddressError, find_address
from experiments.inpainting.web.comparison import Comparison, Model


class ServeError(RuntimeError):
    """The page cannot be served."""


def serve(
    baseline: Path,
    carafe: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    working_side: int | None = None,
    full_size: bool = False,
) -> None:
    """Serves a page to drop a picture, paint a hole and see two models fill it, until stopped.

    Args:
        baseline: folder of a trained run.
        carafe: folder of a trained run with CARAFE++.
        host: address to listen at; by default for this machine alone.
        port: to listen at; 0 for any that is free.
        working_side: pictures whose shorter side is longer are filled at this size, in pixels; by
            default at that of the images that the run was trained on.
        full_size: fills pictures at their own size instead.

    Raises:
        CheckpointError: a run cannot be read.
        InputError: ``working_side`` is below 1, or given with ``full_size``.
        ServeError: Gradio is not installed, or the address cannot be listened at.
    """
    check_installed()
    address = _address(host, port)  # before the runs are read, which takes long
    models = {
        "baseline": load_inpainter(baseline, working_side, full_size),
        "CARAFE++": load_inpainter(carafe, working_side, full_size),
    }
    serve_models(models, address.host, address.port)


def check_installed() -> None:
    """Raises ``ServeError`` if there is no Gradio."""
    if find_spec("gradio") is None:
        raise ServeError('the page needs Gradio: pip install --editable ".[web]"')


def serve_models(models: Mapping[str, Model], host: str, port: int) -> None:
    """Serves the page for any models, until SIGINT or SIGTERM.

    Args:
        models: by what the page calls them.
        host: address to listen at.
        port: to listen at.

    Raises:
        ServeError: Gradio is not installed, or the address cannot be listened at.
    """
    check_installed()
    address = _address(host, port)
    if not address.is_loopback:
        print(
            f"warning: at {host} everyone who reaches this machine can use the page; it asks for "
            "no password, and sends pictures unencrypted",
            file=sys.stderr,
        )
    with _stop_signals() as stopped, _own_folder():
        from experiments.inpainting.web.page import build, launch

        blocks = build(Comparison(models))
        try:
            print(f"{launch(blocks, address)} (ctrl-C to stop)", flush=True)
            stopped.wait()
        except OSError as error:  # Gradio's advice is about its own settings
            text = f"cannot listen at host {host}, port {address.port}: it has just been taken"
            raise ServeError(text) from error
        finally:
            blocks.close(verbose=False)


def _address(host: str, port: int) -> Address:
    try:
        return find_address(host, port)
    except AddressError as error:
        raise ServeError(str(error)) from error


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Has Gradio write to a folder that goes with it, and obey no setting of other pages."""
    before, before_folder = dict(os.environ), tempfile.tempdir
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="carafe-jax-") as folder:
        # A request's body is written where `tempfile` says, all else where Gradio's variables do.
        tempfile.tempdir = folder
        os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Gradio asks itself whether it is up, which a proxy could not answer.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
        try:
            yield
        finally:
            tempfile.tempdir = before_folder
            os.environ.clear()
            os.environ.update(before)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that the temporary folder is removed."""
    stopped = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
