"""A web page in Gradio on which two trained models fill the same hole."""

import json
import signal
import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.engine.errors import InputError, UserError
from experiments.engine.settings import CheckpointChoice
from experiments.inpainting.prediction.inpainter import load_inpainter
from experiments.inpainting.web.clicks import Fills
from experiments.inpainting.web.comparison import Filled, Model, fill_with_each, preview

MAX_BYTES = 20 * 2**20
_MAX_PORT = 65535
_QUEUE = 8  # number of waiting fills; further visitors are asked to try again
_CACHE = (600, 3600)  # seconds between two searches for old files, and age of old files
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_TITLE = "Filling holes with CARAFE++"
_INTRODUCTION = f"""# {_TITLE}
Drop a picture, paint over the part to be replaced, and press **Fill**: the same network fills the
hole without and with CARAFE++. Click on a filled picture to see from which pixels the network
reassembles that pixel. The picture does not leave the machine that serves this page.
"""
_SOURCES = "Where this pixel comes from"
_SOURCES_NOTE = """The network reassembled the pixel in the green frame from the red pixels: they
hold 70 % of its weight. The weight is followed up from the coarsest map, and down from the input if
the network also downsamples with CARAFE++. If it only downsamples with CARAFE++, the green frame is
the pixel of the coarsest map in which the clicked pixel lies. Convolutions and skip connections do
not count. The picture is shown as the network reads it, with a white hole.
"""


class ServeError(UserError, RuntimeError):
    """The page cannot be served."""


def serve(
    baseline: Path,
    carafe: Path,
    host: str,
    port: int,
    working_side: int | None,
    full_size: bool,
    checkpoint: CheckpointChoice,
) -> None:
    """Serves a web page on which two models fill a hole that the visitor paints, until stopped.

    Args:
        baseline: folder of a trained run without CARAFE++.
        carafe: folder of a trained run with CARAFE++.
        host: host name or address of the server.
        port: port of the server; 0 takes the first free port from 7860 on.
        working_side: shorter side, in pixels, to which larger pictures are scaled down before they
            are filled; None for the side of each run's training images.
        full_size: whether pictures are filled at their own size instead.
        checkpoint: the newest checkpoint of each run, or the best, which has the highest PSNR so
            far.

    Raises:
        CheckpointError: a run cannot be read.
        InputError: ``working_side`` is below 1, or both it and ``full_size`` are given.
        ServeError: Gradio is not installed, or cannot listen on this host and port, or a proxy
            hides the page.
    """
    if find_spec("gradio") is None:
        raise ServeError('the page needs Gradio: pip install --editable ".[web]"')
    if not 0 <= port <= _MAX_PORT:
        raise ServeError(f"port must be from 0 to {_MAX_PORT}, got {port}")
    models = {
        "baseline": load_inpainter(baseline, working_side, full_size, checkpoint),
        "CARAFE++": load_inpainter(carafe, working_side, full_size, checkpoint),
    }
    serve_models(models, host, port)


def serve_models(models: Mapping[str, Model], host: str, port: int) -> None:
    """Serves the page for any models, until SIGINT or SIGTERM.

    Args:
        models: the models, by the names that the page shows.
        host: host name or address of the server.
        port: port of the server; 0 takes the first free port from 7860 on.

    Raises:
        ServeError: Gradio cannot listen on this host and port, or a proxy hides the page.
    """
    host = host.strip("[]")
    if host not in _LOOPBACK:
        print(
            f"warning: with host {host}, everyone who can reach this machine can use the page, "
            "without a password; pictures are sent unencrypted",
            file=sys.stderr,
        )
    blocks = _page(models)
    # Both signals end the process like ctrl-C, so that Gradio removes its temporary files. By
    # default, programs that a script starts in the background ignore SIGINT.
    stopping = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in stopping}
    try:
        _, url, _ = blocks.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port or None,
            max_file_size=MAX_BYTES,
            share=False,
            footer_links=[],
            run_history=False,
            prevent_thread_lock=True,
            quiet=True,
        )
        print(f"{url} (ctrl-C to stop)", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except OSError as error:  # Gradio's message does not name the host
        raise ServeError(
            f"cannot listen on host {host}, port {port}: the port is in use, or the host is "
            "unknown or not this machine"
        ) from error
    except Exception as error:  # Gradio sends a test request to its server, through any proxy
        raise ServeError(
            f"cannot reach the page at host {host}, port {port}: {error}; behind a proxy, set "
            "NO_PROXY=localhost,127.0.0.1"
        ) from error
    finally:
        blocks.close(verbose=False)
        for number, handler in before.items():
            signal.signal(number, handler)


def _page(models: Mapping[str, Model]) -> Any:
    import gradio as gr  # optional, and slow to import

    one_at_a_time = threading.Lock()
    fills = Fills(models)

    def show(file: str | None) -> list[Any]:
        try:
            shown = preview(file)
        except InputError as error:
            return [None, None, problem(error)]
        editor = {"background": shown, "layers": [], "composite": shown}
        return [gr.skip(), editor, problem(None)]

    def fill(file: str | None, painted: dict[str, Any] | None) -> list[Any]:
        layers = painted["layers"] if painted else []
        try:
            # A cancelled fill runs to its end, and must not slow down the next one.
            with one_at_a_time:
                filled = fill_with_each(models, file, layers[0] if layers else None).values()
        except InputError as error:
            return [*no_results(), None, problem(error)]
        assert file is not None  # otherwise there is no fill
        shown = [*(each.image for each in filled), *(_time(each) for each in filled)]
        return [*shown, *no_sources(), fills.add(file, layers[0]), problem(None)]

    def no_results() -> list[Any]:
        return [*[None] * 2 * len(models), *no_sources()]

    def no_sources() -> list[Any]:
        return [gr.update(value=None, visible=False), gr.update(visible=False)]

    def showing_sources_of(name: str) -> Any:
        def show_sources(number: int | None, event: gr.SelectData) -> list[Any]:
            try:
                with one_at_a_time:
                    drawn = fills.draw(number, name, event.index)
            except UserError as error:
                return [*no_sources(), problem(error)]
            column, row = event.index
            heading = f"{_SOURCES}: {name}, row {row}, column {column}"
            shown = gr.update(value=drawn, label=heading, visible=True)
            return [shown, gr.update(visible=True), problem(None)]

        return show_sources

    def problem(error: Exception | None) -> Any:
        return gr.update(value=str(error or ""), visible=error is not None)

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=_CACHE) as blocks:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.File(label="Picture", height=140)
                button = gr.Button("Fill", variant="primary")
                message = gr.Textbox(label="Message", visible=False, elem_id="message", lines=2)
            hole = gr.ImageEditor(
                label="Paint the hole",
                elem_id="hole",
                type="pil",
                scale=3,
                height=460,
                sources=(),
                transforms=(),
                layers=False,
                buttons=[],
                brush=gr.Brush(default_size=32, colors=["#ff00aa"], color_mode="fixed"),
            )
        images, times = [], []
        with gr.Row():
            for name in models:
                with gr.Column():
                    buttons = ["download", "fullscreen"]
                    images.append(
                        gr.Image(label=name, format="png", interactive=False, buttons=buttons)
                    )
                    times.append(gr.Markdown())
        sources = gr.Image(
            label=_SOURCES,
            elem_id="sources",
            format="png",
            interactive=False,
            visible=False,
            buttons=["download", "fullscreen"],
        )
        note = gr.Markdown(_SOURCES_NOTE, visible=False)
        number = gr.State()  # of the fill that is shown
        results = [*images, *times, sources, note]
        showing = picture.upload(show, picture, [picture, hole, message], api_visibility="private")
        clicks = [
            image.select(
                showing_sources_of(name),
                number,
                [sources, note, message],
                concurrency_limit=1,
                api_visibility="private",
            )
            for name, image in zip(models, images, strict=True)
        ]
        # One fill at a time: two would slow each other down and falsify their times.
        filling = button.click(
            fill,
            [picture, hole],
            [*results, number, message],
            concurrency_limit=1,
            api_visibility="private",
            cancels=clicks,  # their answers would appear below the new pictures
        )
        # Gradio accepts a new picture only after the previous one has been cleared. The browser
        # clears the page and ignores pending answers of the server, which concern the old picture.
        nothing = [*no_results(), None, problem(None)]
        picture.clear(
            None,
            None,
            [*results, hole, message],
            js=f"() => {json.dumps(nothing)}",
            cancels=[showing, filling, *clicks],
        )
    return blocks.queue(max_size=_QUEUE)


def _time(filled: Filled) -> str:
    time = f"**{1000 * filled.seconds:,.0f} ms**"
    if filled.compile_seconds:
        time += f", after {1000 * filled.compile_seconds:,.0f} ms of compilation"
    return time
