"""The operator against patches and einsum: `python -m experiments.benchmarks.operator`.

Prints one table: median times side by side in one run, as ratios, and temporary memory in units of
the operator's own arrays, x + w + y. Runs unchanged on any JAX backend.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tyro
from jax import lax
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.calls import operator, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.timing import compare

CASES = (
    Case(1, 50, 50, 256, up=2),
    Case(1, 100, 100, 256, down=2),
    Case(1, 50, 50, 256, kernel_size=3, up=2),
    Case(1, 50, 50, 256, kernel_size=7, up=2),
    Case(1, 100, 100, 256, kernel_size=7, down=2),
    Case(1, 50, 50, 256, up=4),
    Case(16, 32, 32, 64, up=2),
    Case(16, 64, 64, 32, down=2),
    Case(1, 50, 50, 256, up=2, dtype="bfloat16"),
    Case(1, 100, 100, 256, down=2, dtype="bfloat16"),
)


def label(case: Case) -> str:
    """Of a row."""
    scale = f"up {case.up}" if case.up > 1 else f"down {case.down}"
    sizes = "x".join(map(str, case.x_shape))
    return f"{scale}, k={case.kernel_size}, {sizes}, {case.dtype}"


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


def run(rounds: int = 5) -> None:
    """Prints the table.

    Args:
        rounds: turns of five calls that each function gets; the median counts.
    """
    table = Table(title=f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    for heading in ("", "pass", "patches ms", "ours ms", "times faster", "temp / (x+w+y)",
                    "patches temp"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("", "pass") else "right")
    for case in CASES:
        x, weights, cotangent = arrays(case)
        own_bytes = x.nbytes + weights.nbytes + cotangent.nbytes

        forward: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
            "ours": operator(case, None),
            "patches": functools.partial(through_patches, case=case),
        }
        gradient = {name: with_gradients(function) for name, function in forward.items()}
        rows = {
            "forward": compare(forward, (x, weights), rounds),
            "with gradient": compare(gradient, (x, weights, cotangent), rounds),
        }
        for name, timings in rows.items():
            mine, theirs = timings["ours"], timings["patches"]
            table.add_row(
                label(case) if name == "forward" else "",
                name,
                f"{theirs.milliseconds:.1f}",
                f"{mine.milliseconds:.2f}",
                f"{theirs.milliseconds / mine.milliseconds:.1f}",
                f"{mine.temporary_bytes / own_bytes:.2f}",
                f"{theirs.temporary_bytes / own_bytes:.1f}",
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    tyro.cli(run)
