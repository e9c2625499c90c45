"""Figures of where a classifier reassembles its features from (Fig. 9 b)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.classification.configs import ClassificationConfig
from experiments.classification.task import make_model
from experiments.engine.config import ConfigError
from experiments.engine.runs import LoadedRun
from experiments.engine.text import printable
from experiments.models.input_normalization import normalize
from experiments.source_maps.figures import Pixels, pixels_of, sources_figure
from experiments.source_maps.pathways import BESIDE_DOWN, bottom_up, compared
from experiments.source_maps.targets import grid_targets

_ROWS = _COLUMNS = 2  # of the grid of targets


def check_has_maps(config: ClassificationConfig, run: Path) -> None:
    """Raises ``ConfigError`` if the downsampler of a run is not CARAFE++.

    Args:
        config: config of the run.
        run: folder of the run, for the message.
    """
    downsampler = config.model.downsampler
    if downsampler != "carafe":
        raise ConfigError(
            "run must have 'carafe' as its downsampler (model.downsampler) for maps, got "
            f"{downsampler!r} in {printable(run)}"
        )


def map_drawer(loaded: LoadedRun[ClassificationConfig]) -> Callable[[Pixels, str], Pixels]:
    """Returns a function that draws the downsampling in the network on an image.

    Its arguments are the crop of the image, as from
    :func:`experiments.classification.images.evaluation_crop`, and the first line of the title. The
    figure shows the source weights of pixels of C5, on a grid, in the input of the pool of Res-1.

    Args:
        loaded: config and state of a run with CARAFE++ as its downsampler.
    """
    model = make_model(loaded.config)
    variables = jax.device_put(
        {"params": loaded.state["params"], "batch_stats": loaded.state["model_state"]}
    )

    @jax.jit
    def reassemblies_of(variables: Any, image: jax.Array) -> tuple[Reassembly, ...]:
        x = normalize(image[None], model.config.input)
        return collect_reassemblies(model, variables, x)[1]

    def draw(image: Pixels, title: str) -> Pixels:
        pathway = bottom_up(reassemblies_of(variables, image), at="")
        assert pathway is not None
        pathway = pathway.of_image(0)
        shown = compared(pathway, BESIDE_DOWN)
        side = image.shape[0]
        targets = grid_targets(image.shape[:2], pathway.target_stride, _ROWS, _COLUMNS)
        title = f"{title}, cropped to {side}x{side}"
        headings = [f"row {row}, column {column}" for row, column, *_ in targets]
        return pixels_of(sources_figure(image, shown, targets, title, headings))

    return draw
