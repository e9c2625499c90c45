"""Compares CARAFE with other layers: `python -m experiments.benchmarks.layer`.

Prints two tables in Markdown. The first compares the layer with other layers that rescale a map:
forward, and with the gradient with respect to parameters and map. The second has the time of each
part of the layer and of its gradient. Runs on any JAX backend.

On a CPU with glibc, the layer is measured twice: with the defaults of the allocator, like the other
layers, and with memory kept, like its parts. See :mod:`experiments.benchmarks.processes`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import carafe_jax
from carafe_jax.linen import CARAFE
from experiments.benchmarks import machine, processes
from experiments.benchmarks.calls import contractions, with_gradients
from experiments.benchmarks.cases import Case, matching
from experiments.benchmarks.markdown import print_table
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.rescaling_layers import alternatives
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program
from experiments.resamplers.convolutions import Deconvolution

CARAFE_LAYER = "CARAFE"
WHOLE, WHOLE_WITH_GRADIENT = "whole layer", "whole layer with gradient"

CASES = (
    Case(1, 50, 50, 256, up=2),
    Case(1, 100, 100, 256, down=2),
    Case(1, 50, 50, 256, up=4),
    Case(16, 32, 32, 64, up=2),
    Case(64, 14, 14, 256, up=2),
    Case(1, 50, 50, 256, up=2, dtype="bfloat16"),
    Case(1, 100, 100, 256, down=2, dtype="bfloat16"),
)


def carafe_layer(case: Case) -> CARAFE:
    """The CARAFE layer of a case."""
    return CARAFE(
        kernel_size=case.kernel_size, up=case.up, down=case.down, dtype=jnp.dtype(case.dtype)
    )


def layers_of(case: Case) -> dict[str, nn.Module]:
    """CARAFE and the other layers that rescale by the same factor, CARAFE first."""
    layers = {CARAFE_LAYER: carafe_layer(case), **alternatives(case)}
    if case.up == 2:
        layers["our deconvolution 2x2"] = Deconvolution(case.channels, 2, jnp.dtype(case.dtype))
    return layers


def time_layers(case: Case, rounds: int) -> dict[str, dict[str, Timing]]:
    """Times every layer, by pass and name. The layers of a pass take turns."""
    x, dy = _operands(case)
    programs: dict[str, dict[str, Program]] = {FORWARD: {}, WITH_GRADIENT: {}}
    for name, layer in layers_of(case).items():
        variables = _variables(layer, x)
        programs[FORWARD][name] = Program(layer.apply, (variables, x))
        programs[WITH_GRADIENT][name] = Program(with_gradients(layer.apply), (variables, x, dy))
    return {name: in_turns(by_name, rounds) for name, by_name in programs.items()}


def time_parts(case: Case, rounds: int) -> dict[str, Timing]:
    """Times CARAFE's parts, their gradients and the whole layer, in turns."""
    layer, (x, dy) = carafe_layer(case), _operands(case)
    variables = _variables(layer, x)
    forward, gradients = {}, {}

    def add(name: str, function: Callable[..., jax.Array], *operands: Any) -> jax.Array:
        result = jax.jit(function)(*operands)
        forward[name] = Program(function, operands)
        gradients[f"gradient of the {name}"] = Program(_gradients(function), (*operands, result))
        return result

    def add_convolution(name: str, x: jax.Array) -> jax.Array:
        params = variables["params"]["kernel_predictor"][name]

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return layer.apply(
                {"params": {"kernel_predictor": {name: params}}},
                x,
                method=lambda carafe, x: getattr(carafe.kernel_predictor, name)(x),
            )

        return add(name.replace("_", " "), apply, params, x)

    def normalise(logits: jax.Array) -> jax.Array:
        return carafe_jax.reassembly_kernels(x, logits, **case.options)

    def reassemble(x: jax.Array, weights: jax.Array) -> jax.Array:
        return carafe_jax.reassemble(x, weights, **case.options)

    logits = add_convolution("content_encoder", add_convolution("channel_compressor", x))
    weights = add("normaliser", normalise, logits)
    reassembly = {
        name: Program(function, (x, weights, dy))
        for name, function in contractions(reassemble).items()
    }
    forward["reassembly"] = reassembly.pop(FORWARD)
    forward[WHOLE] = Program(layer.apply, (variables, x))
    whole = {WHOLE_WITH_GRADIENT: Program(with_gradients(layer.apply), (variables, x, dy))}
    return in_turns({**forward, **gradients, **reassembly, **whole}, rounds)


def _operands(case: Case) -> tuple[jax.Array, jax.Array]:
    """A random map and a random cotangent."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], case.x_shape, case.dtype)
    return x, jax.random.normal(keys[1], case.y_shape, case.dtype)


def _variables(layer: nn.Module, x: jax.Array) -> Any:
    return jax.jit(layer.init)(jax.random.key(1), x)


def _gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Gradients with respect to all operands; the last argument is the cotangent."""

    def run(*arguments: Any) -> Any:
        *operands, dy = arguments
        return jax.vjp(function, *operands)[1](dy)

    return run


LAYER_HEADINGS = ["", "layer",
                  *(f"{name}, {number}" for name in (FORWARD, WITH_GRADIENT)
                    for number in ("ms", "times CARAFE", "page faults"))]  # fmt: skip


def layer_rows(
    case: Case, found: Mapping[str, Mapping[str, Timing]], kept: Mapping[str, Timing] | None
) -> Iterator[list[str]]:
    """The rows of a case; ``kept`` has the times of CARAFE's parts with memory kept."""
    forward, gradient = found[FORWARD], found[WITH_GRADIENT]
    layers = {name: (forward[name], gradient[name]) for name in forward}
    if kept is not None:
        own = {CARAFE_LAYER: layers.pop(CARAFE_LAYER)}
        own[f"{CARAFE_LAYER}, memory kept"] = kept[WHOLE], kept[WHOLE_WITH_GRADIENT]
        layers = {**own, **layers}
    for name, passes in layers.items():
        entries = [case.label if name == CARAFE_LAYER else "", name]
        for timing, carafe in zip(passes, layers[CARAFE_LAYER], strict=True):
            entries += [
                f"{timing.milliseconds:.2f}",
                f"{timing.milliseconds / carafe.milliseconds:.2f}",
                f"{timing.page_faults:.0f}",
            ]
        yield entries


def run(cases: str = "", rounds: int = 5) -> None:
    """Prints the tables.

    Args:
        cases: part of the labels of the cases to measure, such as "up 2" or "bfloat16".
        rounds: number of turns of each layer, of five calls, or one if it is slow; the table
            has the medians.
    """
    check_rounds(rounds)
    print_tables(matching(CASES, cases), rounds)


def print_tables(cases: Sequence[Case], rounds: int) -> None:
    """Measures cases and prints each row as soon as it is available."""
    here = processes.call(machine.this_machine, "defaults")
    allocator = processes.or_defaults("memory kept", here.platform)
    parts_of: dict[str, dict[str, Timing]] = {}

    def rows() -> Iterator[list[str]]:
        for case in cases:
            found = processes.call(time_layers, "defaults", case, rounds)
            times = parts_of[case.label] = processes.call(time_parts, allocator, case, rounds)
            yield from layer_rows(case, found, times if allocator != "defaults" else None)

    print(processes.header(here, allocator))
    print_table(LAYER_HEADINGS, 2, rows())
    print()
    print_table(
        ["ms", *next(iter(parts_of.values()))],
        1,
        (
            [name, *(f"{timing.milliseconds:.2f}" for timing in times.values())]
            for name, times in parts_of.items()
        ),
    )


if __name__ == "__main__":
    run_program(run)
