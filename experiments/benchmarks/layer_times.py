"""Times of whole layers of one case, and of the parts of CARAFE."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import carafe_jax
from carafe_jax.linen import CARAFE
from experiments.benchmarks import machine
from experiments.benchmarks.calls import contractions, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from experiments.benchmarks.rescaling_layers import alternatives
from experiments.benchmarks.timing import Calls, Program, in_turns
from experiments.resamplers.convolutions import Deconvolution

CARAFE_LAYER = "CARAFE"
WHOLE, WHOLE_WITH_GRADIENT = "whole layer", "whole layer with gradient"


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers side by side.

    Attributes:
        platform: of JAX.
        machine: in words.
        times: by pass and layer.
    """

    platform: str
    machine: str
    times: dict[str, dict[str, Calls]]


def carafe_layer(case: Case) -> CARAFE:
    """The layer of a case."""
    return CARAFE(
        kernel_size=case.kernel_size, up=case.up, down=case.down, dtype=jnp.dtype(case.dtype)
    )


def layers_of(case: Case) -> dict[str, nn.Module]:
    """CARAFE first, then what else rescales as it does."""
    layers = {CARAFE_LAYER: carafe_layer(case), **alternatives(case)}
    if case.up == 2:
        layers["our deconvolution 2x2"] = Deconvolution(case.channels, 2, jnp.dtype(case.dtype))
    return layers


def beside(case: Case, rounds: int) -> Layers:
    """Times every layer, forward and with gradient by parameters and map, in turns."""
    x, dy = _operands(case)
    programs: dict[str, dict[str, Program]] = {FORWARD: {}, WITH_GRADIENT: {}}
    for name, layer in layers_of(case).items():
        variables = _variables(layer, x)
        programs[FORWARD][name] = Program(layer.apply, (variables, x))
        programs[WITH_GRADIENT][name] = Program(with_gradients(layer.apply), (variables, x, dy))
    times = {name: in_turns(functions, rounds) for name, functions in programs.items()}
    return Layers(jax.default_backend(), machine.description(), times)


def parts(case: Case, rounds: int) -> dict[str, Calls]:
    """Times CARAFE's parts, their gradients and the whole layer in turns."""
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
    """A map and a cotangent."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], case.x_shape, case.dtype)
    return x, jax.random.normal(keys[1], case.y_shape, case.dtype)


def _variables(layer: nn.Module, x: jax.Array) -> Any:
    return jax.jit(layer.init)(jax.random.key(1), x)


def _gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Gradients by all operands alone, for a cotangent, which comes last."""

    def run(*arguments: Any) -> Any:
        *operands, dy = arguments
        return jax.vjp(function, *operands)[1](dy)

    return run
