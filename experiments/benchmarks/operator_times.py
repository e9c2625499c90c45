"""Times of one case of the operator, and of what else computes the same."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmarks import machine, pytorch, torch_operator
from experiments.benchmarks.calls import Operator, contractions, operator, passes
from experiments.benchmarks.cases import Case, Operand
from experiments.benchmarks.machine import Limits
from experiments.benchmarks.timing import Calls, Program, in_turns

OURS, PATCHES = "ours", "XLA patches"


@dataclasses.dataclass(frozen=True)
class Beside:
    """Formulations of the operator side by side.

    Attributes:
        platform: of JAX.
        machine: in words.
        torch: the version of PyTorch, or ``None`` where its formulations are left out.
        times: by pass and formulation.
        temporary_bytes: by pass and formulation, those of JAX.
    """

    platform: str
    machine: str
    torch: str | None
    times: dict[str, dict[str, Calls]]
    temporary_bytes: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class Own:
    """Our operator beside what the machine can do.

    Attributes:
        passes: by name.
        contractions: by name, each alone.
        limits: of the machine.
    """

    passes: dict[str, Calls]
    contractions: dict[str, Calls]
    limits: Limits


def through_patches(x: jax.Array, weights: jax.Array, case: Case) -> jax.Array:
    """The usual formulation: gather all patches by a convolution, then contract with einsum."""
    k, up, down = case.kernel_size, case.up, case.down
    pad = (k // 2, k // 2)
    patches = lax.conv_general_dilated_patches(
        x, (k, k), (down, down), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batch, rows, columns, _ = patches.shape
    patches = patches.reshape(batch, rows, columns, -1, k * k)
    weights = weights.reshape(batch, rows, up, columns, up, k * k)
    y = jnp.einsum("bqurvk,bqrck->bqurvc", weights, patches)
    return y.reshape(batch, rows * up, columns * up, -1)


def arrays(case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random x, weights that sum to 1, and a cotangent."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], case.x_shape)
    weights = jax.nn.softmax(jax.random.normal(keys[1], case.weights_shape))
    cotangent = jax.random.normal(keys[2], case.y_shape)
    x, weights, cotangent = (a.astype(case.dtype) for a in (x, weights, cotangent))
    return x, weights, cotangent


def array_bytes(case: Case) -> int:
    """Of x, weights and output together, all of which have the dtype of the case."""
    shapes = case.x_shape, case.weights_shape, case.y_shape
    return sum(Operand(shape, case.dtype).nbytes for shape in shapes)


def formulations(case: Case) -> dict[str, Operator]:
    """The operator of a case in JAX, ours and the usual one."""
    return {OURS: operator(case, None), PATCHES: functools.partial(through_patches, case=case)}


def beside(case: Case, rounds: int) -> Beside:
    """Times every pass of every formulation, those of a pass in turns."""
    operands = arrays(case)
    platform = jax.default_backend()
    torch = pytorch.load(platform)
    programs: dict[str, dict[str, Program]] = {}
    functions: dict[str, dict[str, Callable[[], object]]] = {}
    for name, function in formulations(case).items():
        for each, run in passes(function).items():
            program = Program(run, operands)
            programs.setdefault(each, {})[name] = program
            functions.setdefault(each, {})[name] = program
    if torch is not None:
        for name, form in torch_operator.forms(torch, case).items():
            tensors = torch_operator.tensors(torch, form, operands, platform)
            for each, run in torch_operator.passes(torch, form.function).items():
                call = functools.partial(run, *tensors)
                functions[each][name] = pytorch.waiting(torch, call, platform)
    return Beside(
        platform,
        machine.description(),
        None if torch is None else torch.__version__,
        {each: in_turns(by_name, rounds) for each, by_name in functions.items()},
        {
            each: {name: program.temporary_bytes for name, program in by_name.items()}
            for each, by_name in programs.items()
        },
    )


def own(case: Case, rounds: int) -> Own:
    """Times our passes, our contractions and the machine's limits in turns."""
    function, operands = operator(case, None), arrays(case)

    def compiled(functions: dict[str, Callable[..., Any]]) -> dict[str, Program]:
        return {name: Program(run, operands) for name, run in functions.items()}

    of_passes, of_contractions = compiled(passes(function)), compiled(contractions(function))
    of_limits = machine.limit_programs()
    times = in_turns({**of_passes, **of_contractions, **of_limits}, rounds)
    return Own(
        {name: times[name] for name in of_passes},
        {name: times[name] for name in of_contractions},
        machine.limits(times),
    )
