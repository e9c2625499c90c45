"""Times whole layers: CARAFE, and other layers that rescale a map."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from carafe_jax.linen import CARAFE, KernelPredictor
from experiments.benchmarks.calls import with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.fast import Operands, random_sets
from experiments.benchmarks.gpu.plan import OUR_LAYER
from experiments.benchmarks.gpu.timing import (
    Time,
    calls_at_a_time,
    compile_in_threads,
    compiled,
    grouped,
    time_program,
    traced,
)
from experiments.benchmarks.rescaling_layers import alternatives


def layers_of(case: Case) -> dict[str, nn.Module]:
    """Layers by name that have the scale of a case and keep the number of channels."""
    dtype = jnp.dtype(case.dtype)
    options = {"kernel_size": case.kernel_size, "up": case.up, "down": case.down, "dtype": dtype}
    carafe: dict[str, nn.Module] = {
        OUR_LAYER: CARAFE(**options, implementation="mosaic_gpu"),
        "CARAFE xla": CARAFE(**options, implementation="xla"),
        "CARAFE's convolutions": KernelPredictor(**options),
    }
    return {**carafe, **alternatives(case)}


def variables_of(layer: nn.Module, case: Case) -> Any:
    """Parameters of a layer, initialised with a small map."""
    # The parameters depend only on the number of channels.
    small = jnp.zeros((1, 2 * case.down, 2 * case.down, case.channels), case.dtype)
    if isinstance(layer, CARAFE):  # same parameters, without compiling kernels
        layer = layer.clone(implementation="xla")
    return jax.jit(layer.init)(jax.random.key(0, impl="rbg"), small)


def layers(reporter: Reporter, case: Mapping[str, Any], leave_out_kernels: bool) -> str:
    """Times the forward pass of every layer, alone and with the backward pass.

    Args:
        reporter: reporter that sends messages to the parent process.
        case: the case in JSON.
        leave_out_kernels: whether to skip our layer, because one of its kernels hung or crashed.
    """
    given = Case.from_json(case)
    chosen = {
        name: layer
        for name, layer in layers_of(given).items()
        if not (leave_out_kernels and name == OUR_LAYER)
    }
    summary = []
    # XLA runs convolutions on the device while it compiles, to choose among them.
    with reporter.device_alone():
        sets = random_sets(given)
        calls = calls_at_a_time(given.moved.forward)
        # One layer after the other: if the time runs out, the times of the first layers are known.
        for name, layer in chosen.items():
            for each, time in _times(reporter, name, layer, given, sets, calls):
                reporter.measured(**{"case": case, "layer": name, "pass": each,
                                 "microseconds": time.median, "least": time.least})  # fmt: skip
                summary.append(f"{name} {each} {time.median:.4g} us")
    return "; ".join(summary)


def _times(
    reporter: Reporter,
    name: str,
    layer: nn.Module,
    case: Case,
    sets: Sequence[Operands],
    calls: int,
) -> Iterator[tuple[str, Time]]:
    """Times both passes of a layer."""
    reporter.stage(f"compiling {name}")
    variables = variables_of(layer, case)
    last = "logits" if isinstance(layer, KernelPredictor) else "dy"
    operands = [(variables, each.x, getattr(each, last)) for each in sets]
    groups = {"forward": grouped([each[:2] for each in operands], calls),
              "both": grouped(operands, calls)}  # fmt: skip
    functions = {"forward": layer.apply, "both": with_gradients(layer.apply)}
    programs = compile_in_threads({
        each: functools.partial(_compiled, function, groups[each][0])
        for each, function in functions.items()
    })  # fmt: skip
    for each, program in programs.items():
        reporter.running(f"{name} {each}")
        yield each, time_program(program, groups[each])


def _compiled(function: Callable[..., Any], group: tuple[Any, ...]) -> Callable[..., Any]:
    return compiled(traced(function, group))
