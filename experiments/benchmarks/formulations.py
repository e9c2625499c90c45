"""Times formulations of the contractions: `python -m experiments.benchmarks.formulations`.

Prints a table in Markdown: several formulations of each contraction of the operator, timed in turns
at 1x50x50x256, k=5, up=2, and 1x100x100x256, k=5, down=2, float32. The first formulation of each
contraction is the one that :mod:`carafe_kernels.xla` uses on a CPU with up to four cores; the
others were tried and dropped. Each contraction is measured in a separate process; see
:mod:`experiments.benchmarks.processes`. ``kernels/README.md`` discusses the results.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from carafe_kernels import xla
from carafe_kernels.geometry import Geometry
from carafe_kernels.xla.borders import downsample_in_parts
from carafe_kernels.xla.loops import input_gradient_in_blocks, weight_gradient_in_blocks
from jax import lax

from experiments.benchmarks import machine, processes
from experiments.benchmarks.calls import INPUT_GRADIENT, WEIGHT_GRADIENT, arrays
from experiments.benchmarks.cases import Case
from experiments.benchmarks.markdown import megabytes, print_table
from experiments.benchmarks.operator import through_patches
from experiments.benchmarks.passes import FORWARD
from experiments.benchmarks.timing import Program, Timing, check_rounds, in_turns
from experiments.engine.command_line import run_program

_UP = Case(1, 50, 50, 256, up=2)
_DOWN = Case(1, 100, 100, 256, down=2)
_K, _R = _UP.kernel_size, _UP.kernel_size // 2
_H, _C = _UP.height, _UP.channels  # cells along each axis of both cases; channels
_FLOAT32 = jnp.dtype("float32")
_BLOCK_BYTES = xla.Settings().block_bytes

Contraction = Callable[[jax.Array, jax.Array], jax.Array]


def _taps() -> Iterator[tuple[int, int, int]]:
    for n, m in itertools.product(range(_K), repeat=2):
        yield n, m, n * _K + m


def _padded(x: jax.Array, width: int = _R) -> jax.Array:
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def _cells(array: jax.Array) -> jax.Array:
    """``[b, 2q, 2r, n] -> [b, q, u, r, v, n]``."""
    batch, height, width, channels = array.shape
    return array.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _joined(array: jax.Array) -> jax.Array:
    batch, rows, up, columns, _, channels = array.shape
    return array.reshape(batch, rows * up, columns * up, channels)


def banded_matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """Forward, up: for each row of taps, a banded matrix times a row of inputs."""
    sources, w = _padded(x), _cells(w)
    column = jnp.arange(_H)[:, None, None]
    y = jnp.zeros((1, _H, 2, _H, 2, _C))
    for n in range(_K):
        band = sum(
            jnp.where(
                jnp.arange(_H + _K - 1)[None, None] == column + m, w[..., n * _K + m, None], 0
            )
            for m in range(_K)
        )
        y += jnp.einsum("bqurvl,blqc->bqurvc", band, sources[:, n : n + _H].swapaxes(1, 2))
    return _joined(y)


def row_by_row(x: jax.Array, w: jax.Array) -> jax.Array:
    """Forward, up: a sequential loop over rows of cells."""
    sources, w = _padded(x), _cells(w)

    def row(q: jax.Array) -> jax.Array:
        window = lax.dynamic_slice_in_dim(sources, q, _K, 1)
        terms = (
            w[:, q, ..., t, None] * window[:, n, None, m : m + _H, None] for n, m, t in _taps()
        )
        return functools.reduce(jnp.add, terms)

    return _joined(jnp.moveaxis(lax.map(row, jnp.arange(_H)), 0, 1))


def gather_in_one_loop(w: jax.Array, y: jax.Array) -> jax.Array:
    """Input gradient, up: all 100 terms in one loop."""
    w, y = _cells(_padded(w, 2 * _R)), _cells(_padded(y, 2 * _R))
    terms = (
        w[:, a : a + _H, u, b : b + _H, v, t, None] * y[:, a : a + _H, u, b : b + _H, v]
        for n, m, t in _taps()
        for u, v in itertools.product(range(2), repeat=2)
        for a, b in [(_K - 1 - n, _K - 1 - m)]
    )
    return functools.reduce(jnp.add, terms)


def scatter(w: jax.Array, y: jax.Array) -> jax.Array:
    """Input gradient, up: for each tap, sums over a cell's outputs and adds at the tap's offset."""
    w, y = _cells(w), _cells(y)
    x = jnp.zeros((1, _H + _K - 1, _H + _K - 1, _C))
    for n, m, t in _taps():
        x = x.at[:, n : n + _H, m : m + _H].add((w[..., t, None] * y).sum((2, 4)))
    return x[:, _R:-_R, _R:-_R]


def sum_per_tap(x: jax.Array, y: jax.Array) -> jax.Array:
    """Weight gradient, up: one reduction per tap."""
    sources, y = _padded(x), _cells(y)
    sums = [(y * sources[:, n : n + _H, None, m : m + _H, None]).sum(-1) for n, m, _ in _taps()]
    return _joined(jnp.stack(sums, -1))


def row_matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Weight gradient, up: a row of outputs times a row of inputs; only the band is kept."""
    sources, y = _padded(x), _cells(y)
    rows = []
    for n in range(_K):
        full = jnp.einsum("bqurvc,bqlc->bqurvl", y, sources[:, n : n + _H])
        bands = [jnp.diagonal(full[..., m : m + _H], axis1=3, axis2=5) for m in range(_K)]
        rows.append(jnp.stack(bands, -1))  # [b, q, u, v, r, m]
    return _joined(jnp.stack(rows, -2).swapaxes(3, 4).reshape(1, _H, 2, _H, 2, _K * _K))


def lanes(x: jax.Array, y: jax.Array) -> jax.Array:
    """Weight gradient, up: sums in 16 lanes, which vectorise, then a sum over the lanes."""
    split = (_C // 16, 16)
    sources = _padded(x).reshape(1, _H + _K - 1, _H + _K - 1, *split)
    y = _cells(y).reshape(1, _H, 2, _H, 2, *split)
    sums = [(y * sources[:, n : n + _H, None, m : m + _H, None]).sum(-2) for n, m, _ in _taps()]
    return _joined(jnp.stack(sums, -2).sum(-1))


def strided_slices(x: jax.Array, w: jax.Array) -> jax.Array:
    """Forward, down: strided slices of the padded map."""
    sources = jnp.pad(x, ((0, 0), (_R, _R + 1), (_R, _R + 1), (0, 0)))
    terms = (
        w[..., t, None] * sources[:, n : n + 2 * _H : 2, m : m + 2 * _H : 2] for n, m, t in _taps()
    )
    return functools.reduce(jnp.add, terms)


def _gradient(function: Contraction, argument: int, case: Case) -> Contraction:
    def run(first: jax.Array, second: jax.Array) -> jax.Array:
        # A contraction is linear in each operand, so its gradient does not depend on that operand.
        if argument == 0:
            given = jnp.zeros(case.x_shape), first
        else:
            given = first, jnp.zeros(case.weights_shape)
        return jax.vjp(function, *given)[1](second)[argument]

    return run


def suites() -> dict[tuple[str, Case], dict[str, Contraction]]:
    """The formulations of each contraction and case, the operator's own formulation first."""
    up, down = Geometry(**_UP.options), Geometry(**_DOWN.options)
    return {
        (FORWARD, _UP): {
            "shift and add": lambda x, w: xla.forward(x, w, up, _FLOAT32),
            "row by row": row_by_row,
            "banded matmul": banded_matmul,
            "patches and einsum": lambda x, w: through_patches(x, w, _UP),
        },
        (INPUT_GRADIENT, _UP): {
            "gather, one pass for several rows of taps": lambda w, y: xla.input_gradient(
                w, y, up, _UP.size, _FLOAT32
            ),
            "the same, block by block": lambda w, y: input_gradient_in_blocks(
                w, y, up, _UP.size, _FLOAT32, _FLOAT32, _BLOCK_BYTES
            ),
            "gather in one loop": gather_in_one_loop,
            "scatter, tap by tap": scatter,
            "autodiff of row by row": _gradient(row_by_row, 0, _UP),
        },
        (WEIGHT_GRADIENT, _UP): {
            "one reduction with 25 results, block by block": lambda x, y: weight_gradient_in_blocks(
                x, y, up, _FLOAT32, _FLOAT32, _BLOCK_BYTES
            ),
            "the same, whole": lambda x, y: xla.weight_gradient(x, y, up, _FLOAT32),
            "row matmul, band kept": row_matmul,
            "one reduction per tap": sum_per_tap,
            "16 lanes": lanes,
        },
        (FORWARD, _DOWN): {
            "inner cells without a copy, then the border": lambda x, w: downsample_in_parts(
                x, w, down, _FLOAT32, _FLOAT32
            ),
            "cells of a padded copy": lambda x, w: xla.forward(x, w, down, _FLOAT32),
            "strided slices": strided_slices,
            "patches and einsum": lambda x, w: through_patches(x, w, _DOWN),
        },
        (INPUT_GRADIENT, _DOWN): {
            "gather by source phase": lambda w, y: xla.input_gradient(
                w, y, down, _DOWN.size, _FLOAT32
            ),
            "autodiff of strided slices": _gradient(strided_slices, 0, _DOWN),
        },
        (WEIGHT_GRADIENT, _DOWN): {
            "one reduction with 25 results, block by block": lambda x, y: weight_gradient_in_blocks(
                x, y, down, _FLOAT32, _FLOAT32, _BLOCK_BYTES
            ),
            "the same, whole": lambda x, y: xla.weight_gradient(x, y, down, _FLOAT32),
            "autodiff of strided slices": _gradient(strided_slices, 1, _DOWN),
        },
    }


def operands(contraction: str, case: Case) -> tuple[jax.Array, jax.Array]:
    """The operands of all formulations of a contraction."""
    x, w, y = arrays(case)
    return {FORWARD: (x, w), INPUT_GRADIENT: (w, y), WEIGHT_GRADIENT: (x, y)}[contraction]


def times(contraction: str, case: Case, rounds: int) -> dict[str, Timing]:
    """Times the formulations of a contraction in turns."""
    given = operands(contraction, case)
    functions = suites()[contraction, case]
    return in_turns({name: Program(run, given) for name, run in functions.items()}, rounds)


def run(rounds: int = 3) -> None:
    """Prints the table.

    Args:
        rounds: number of turns of each function, of five calls, or one if it is slow; the table
            has the medians.
    """
    check_rounds(rounds)
    here = processes.call(machine.this_machine, "defaults")
    print(processes.header(here, "defaults"))
    print_table(["", "formulation", "ms", "temporary MB"], 2, _rows(rounds))


def _rows(rounds: int) -> Iterator[list[str]]:
    for contraction, case in suites():
        found = processes.call(times, "defaults", contraction, case, rounds)
        for name, timing in found.items():
            first = name == next(iter(found))
            yield [
                f"{contraction}, {'up' if case.up > 1 else 'down'} 2" if first else "",
                name,
                f"{timing.milliseconds:.2f}",
                megabytes(timing.temporary_bytes, 1),
            ]


if __name__ == "__main__":
    run_program(run)
