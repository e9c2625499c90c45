"""The web page of :mod:`experiments.inpainting.web.serve`, in Gradio."""

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from starlette.middleware import Middleware

from experiments.data.pictures import PictureError
from experiments.inpainting.prediction.holes import InputError
from experiments.inpainting.web.address import Address
from experiments.inpainting.web.comparison import Comparison, Filled, preview
from experiments.inpainting.web.gate import Gate

MAX_BYTES = 20 * 2**20
_ENVELOPE_BYTES = 100_000  # of a form around a file
# Gradio does much that this page does not need: fetch addresses for its visitors, for one.
_ROUTES = {
    "HEAD": "/",
    "GET": r"/|/(assets|static|svelte)/.*|/(config|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(queue/data|startup-events|upload_progress|heartbeat/\w+|file=/.*)",
    "POST": r"/gradio_api/(upload|queue/join|cancel|reset)",
}
_QUEUE = 8  # fills that wait; further visitors are told to come again
# For pictures and what is made of them: some twenty of the largest, and hundreds of others.
_FOLDER_BYTES = 2**30
_CACHE_CHECK, _CACHE_AGE = 600, 3600  # seconds

_TITLE = "Filling holes with CARAFE++"
_INTRODUCTION = f"""# {_TITLE}
Drop a picture, paint over what is to go, and press **Fill**: the same network fills the hole
without and with CARAFE++. Nothing leaves the machine that shows this page.
"""


def build(comparison: Comparison) -> gr.Blocks:
    """The page, ready to be launched."""
    blocks = gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(_CACHE_CHECK, _CACHE_AGE)
    )
    with blocks:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.File(label="Picture", height=140)
                button = gr.Button("Fill", variant="primary")
                message = gr.Textbox(label="Message", visible=False, elem_id="message", lines=2)
            hole = gr.ImageEditor(
                label="Paint the hole",
                elem_id="hole",
                scale=3,
                height=460,
                sources=(),
                transforms=(),
                layers=False,
                buttons=[],
                brush=gr.Brush(default_size=32, colors=["#ff00aa"], color_mode="fixed"),
            )
        # On the instance: for a subclass Gradio would write a .pyi beside this file. It holds while
        # `hole` is given values alone, as an update of its options would make a new instance.
        hole.preprocess = _painted
        images, times = [], []
        with gr.Row():
            for name in comparison.names:
                with gr.Column():
                    slug = name.lower().rstrip("+")
                    images.append(
                        gr.Image(
                            label=name,
                            format="png",
                            interactive=False,
                            buttons=["download", "fullscreen"],
                            elem_id=f"image-{slug}",
                        )
                    )
                    times.append(gr.Markdown(elem_id=f"time-{slug}"))
        results = [*images, *times]

        def show(file: str | None) -> list[Any]:
            try:
                shown = preview(Path(file) if file else None)
            except PictureError as error:
                return [None, *forget(), _told(error)]
            value = {"background": shown, "layers": [], "composite": shown}
            return [gr.skip(), *[None] * len(results), value, _told()]

        def forget() -> list[Any]:
            return [None] * (len(results) + 1)

        def fill(file: str | None, painted: bytes | None) -> list[Any]:
            try:
                filled = comparison.fill(Path(file) if file else None, painted)
            except (PictureError, InputError) as error:
                return [*[None] * len(results), _told(error)]
            images = (result.image for result in filled.values())
            return [*images, *(_time(result) for result in filled.values()), _told()]

        picture.upload(show, picture, [picture, *results, hole, message], api_visibility="private")
        picture.clear(forget, None, [*results, hole], api_visibility="private")
        button.click(
            fill,
            [picture, hole],
            [*results, message],
            concurrency_limit=1,
            api_visibility="private",
        )
    blocks.queue(max_size=_QUEUE)
    return blocks


def launch(blocks: gr.Blocks, address: Address) -> str:
    """Starts to serve, in threads of its own.

    Args:
        blocks: the page.
        address: to listen at. What comes in lies in the temporary folder of :mod:`tempfile`.

    Returns:
        The page's address.

    Raises:
        OSError: the port has been taken meanwhile.
    """
    processing_utils.async_ssrf_protected_download = _refuse_download
    gate = Middleware(
        Gate,
        routes=_ROUTES,
        names=address.names,
        max_bytes=MAX_BYTES + _ENVELOPE_BYTES,
        folder=Path(tempfile.gettempdir()),
        folder_bytes=_FOLDER_BYTES,
    )
    _, url, _ = blocks.launch(
        server_name=address.host,
        server_port=address.port,
        max_file_size=MAX_BYTES,
        app_kwargs={"middleware": [gate]},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"]),
        footer_links=[],
        share=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        inbrowser=False,
        inline=False,
        prevent_thread_lock=True,
        quiet=True,
    )
    return str(url)


async def _refuse_download(address: str, **options: Any) -> str:
    """Stands in for Gradio's download of what a visitor names in place of an uploaded file."""
    del address, options
    raise gr.Error("The picture must be uploaded, got an address.", print_exception=False)


def _painted(payload: Any) -> bytes | None:
    """What is painted, as the bytes of an image file; by itself Gradio decodes whatever is sent."""
    return Path(payload.layers[0].path).read_bytes() if payload and payload.layers else None


def _told(error: Exception | None = None) -> Any:
    return gr.update(value=str(error or ""), visible=error is not None)


def _time(filled: Filled) -> str:
    time = f"**{1000 * filled.seconds:,.0f} ms**"
    if filled.compile_seconds:
        time += f", after {1000 * filled.compile_seconds:,.0f} ms of compilation"
    return time
