"""Compares all upsamplers: `python -m experiments.benchmarks.upsamplers`.

Prints a table in Markdown for each of three maps: parameters, operations, and the time and the
temporaries of every upsampler of :mod:`experiments.resamplers.upsamplers`, forward and with the
gradients with respect to parameters, map and guide. The guide has the channels of the map. The
upsamplers of a map are timed in turns, in one process with memory kept; see
:mod:`experiments.benchmarks.processes`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.benchmarks import machine, processes
from experiments.benchmarks.calls import with_gradients
from experiments.benchmarks.markdown import digits, megabytes, print_table
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program
from experiments.engine.tables.cost import Cost, cost
from experiments.resamplers.methods import GUIDED, UPSAMPLERS, Upsampler
from experiments.resamplers.upsamplers import upsample

type Maps = tuple[jax.Array, ...]  # the map, and the guide if the upsampler reads one


class MapShape(NamedTuple):
    """The shape of a map that is doubled.

    Attributes:
        where: place in a network that has such maps.
        shape: shape of the map, ``[B, H, W, C]``.
    """

    where: str
    shape: tuple[int, int, int, int]

    @property
    def label(self) -> str:
        """The title of the table."""
        return f"{self.where}, {'x'.join(map(str, self.shape))}"

    @property
    def doubled(self) -> tuple[int, int, int, int]:
        """The shape of the result."""
        batch, height, width, channels = self.shape
        return batch, 2 * height, 2 * width, channels


SHAPES = (
    MapShape("FPN, level 4 of an image of 800x1344 pixels", (1, 50, 84, 256)),
    MapShape("mask head, 64 regions", (64, 14, 14, 256)),
    MapShape("generator, 4 images", (4, 32, 32, 64)),
)


class Measured(NamedTuple):
    """The cost of an upsampler, and the time of its passes."""

    cost: Cost
    forward: Timing
    with_gradient: Timing


class _Upsample(nn.Module):
    method: Upsampler

    @nn.compact
    def __call__(self, *maps: jax.Array) -> jax.Array:
        x, *guides = maps
        guide = guides[0] if guides else None
        return upsample(x, self.method, name="upsample", guide=guide)


def measure(
    shape: MapShape, methods: Sequence[Upsampler], rounds: int
) -> dict[Upsampler, Measured]:
    """Measures upsamplers, by name. The upsamplers of a pass take turns."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape.shape)
    guide, dy = (jax.random.normal(key, shape.doubled) for key in keys[1:])
    costs: dict[Upsampler, Cost] = {}
    forward: dict[str, Program] = {}
    gradients: dict[str, Program] = {}
    for method in methods:
        layer, maps = _Upsample(method), (x, guide) if method in GUIDED else (x,)
        variables = jax.jit(layer.init)(jax.random.key(1), *maps)

        def apply(variables: nn.FrozenDict, maps: Maps, layer: _Upsample = layer) -> jax.Array:
            y: jax.Array = layer.apply(variables, *maps)
            return y

        costs[method] = cost(layer, *(jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in maps))
        forward[method] = Program(apply, (variables, maps))
        gradients[method] = Program(with_gradients(apply), (variables, maps, dy))
    times, with_gradient = in_turns(forward, rounds), in_turns(gradients, rounds)
    return {
        method: Measured(costs[method], times[method], with_gradient[method]) for method in methods
    }


def rows(found: dict[Upsampler, Measured]) -> Iterator[list[str]]:
    """The rows of a map, one for each upsampler; times are relative to CARAFE++, if it is there."""
    carafe = found.get("carafe")
    for method, measured in found.items():
        entries = [f"{measured.cost.parameters:,}", digits(measured.cost.flops / 1e9)]
        for name in ("forward", "with_gradient"):
            timing: Timing = getattr(measured, name)
            share = ""
            if carafe is not None:
                reference: Timing = getattr(carafe, name)
                share = f" ({timing.milliseconds / reference.milliseconds:.2f})"
            entries += [
                f"{timing.milliseconds:.2f}{share}",
                megabytes(timing.temporary_bytes, 1),
            ]
        yield [f"`{method}`", *entries]


def run(methods: tuple[Upsampler, ...] = UPSAMPLERS, rounds: int = 5) -> None:
    """Prints the tables.

    Args:
        methods: upsamplers to measure.
        rounds: number of turns of each upsampler, of five calls, or one if it is slow; the table
            has the medians.
    """
    check_rounds(rounds)
    here = processes.call(machine.this_machine, "defaults")
    allocator = processes.or_defaults("memory kept", here.platform)
    print(processes.header(here, allocator))
    headings = ["", "parameters", "GFLOP",
                *(f"{name}, {unit}" for name in (FORWARD, WITH_GRADIENT)
                  for unit in ("ms (times CARAFE++)", "temporary MB"))]  # fmt: skip
    for shape in SHAPES:
        found = processes.call(measure, allocator, shape, methods, rounds)
        print(f"\n{shape.label}:\n")
        print_table(headings, 1, rows(found))


if __name__ == "__main__":
    run_program(run)
