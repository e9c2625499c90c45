"""Pathways of a generator: from the input to the coarsest map, and from there to the finest map."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from carafe_jax.sources import Reassembly
from experiments.engine.config import ConfigError
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.source_maps.pathways import (
    KNOWN_UPSAMPLERS,
    UPSAMPLERS,
    Pathway,
    Size,
    map_size,
    pick,
)


class Pathways(NamedTuple):
    """The pathways of a generator.

    Attributes:
        down: from the input to the coarsest map (Fig. 9 b); None if the downsampler is not
            CARAFE++.
        up: from the coarsest map to the finest map (Fig. 9 a); None if the upsampler is neither
            CARAFE++ nor an interpolation.
    """

    down: Pathway | None
    up: Pathway | None

    @property
    def longest(self) -> Pathway | None:
        """From the input through the coarsest to the finest map, or the pathway that exists."""
        if self.down is None or self.up is None:
            return self.up or self.down
        return dataclasses.replace(
            self.up,
            name="Input to finest map",
            steps=(*self.down.steps, *self.up.steps),
            source_stride=self.down.source_stride,
        )


def check_has_pathways(config: GeneratorConfig) -> None:
    """Raises ``ConfigError`` if a generator has no pathway.

    Args:
        config: config of the generator.
    """
    down, up = config.downsampler, config.upsampler
    if not (has_down(config) or has_up(config)):
        raise ConfigError(
            "run must have 'carafe' as its downsampler (model.downsampler), or 'carafe', 'nearest' "
            "or 'bilinear' as its upsampler (model.upsampler), for maps: the source weights of "
            f"other resamplers are not known; got {down!r} and {up!r}"
        )


def has_down(config: GeneratorConfig) -> bool:
    """Whether a generator has the pathway from the input to the coarsest map."""
    return config.downsampler == "carafe"


def has_up(config: GeneratorConfig) -> bool:
    """Whether a generator has the pathway from the coarsest map to the finest map."""
    return config.upsampler in KNOWN_UPSAMPLERS


def generator_pathways(
    config: GeneratorConfig, found: Sequence[Reassembly], size: Size
) -> Pathways:
    """Picks the pathways of a generator.

    Skip connections are not part of a pathway. With partial convolutions, a step has the kernels of
    :class:`experiments.inpainting.model.partial_convolution.MaskedCARAFE` before they are divided
    by their sum over valid pixels.

    Args:
        config: config of the generator.
        found: reassemblies of the generator, from ``carafe_jax.linen.collect_reassemblies``.
        size: height and width of the input, in pixels.
    """
    levels = range(1, config.levels + 1)
    stride = 2**config.levels
    down = up = None
    if has_down(config):
        down = Pathway(
            name="Input to coarsest map",
            steps=_steps(found, [f"down_{level}" for level in levels]),
            source_stride=1,
            target_stride=stride,
            target_size=map_size(size, stride),
        )
    if has_up(config):
        if config.upsampler == "carafe":
            steps = _steps(found, [f"up_{level}" for level in reversed(levels)])
        else:
            make = UPSAMPLERS[config.upsampler]
            steps = tuple(make(map_size(size, 2**level)) for level in reversed(levels))
        up = Pathway(
            name="Coarsest to finest map",
            steps=steps,
            source_stride=stride,
            target_stride=1,
            target_size=size,
        )
    return Pathways(down, up)


def _steps(found: Sequence[Reassembly], modules: Sequence[str]) -> tuple[Reassembly, ...]:
    """Picks the reassembly in each module, which is the module or one of its submodules."""
    names = []
    for module in modules:
        (name,) = (each.name for each in found if each.name.split("/")[0] == module)
        names.append(name)
    return pick(found, names)
