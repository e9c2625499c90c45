"""The operator against patches and einsum: `python -m experiments.benchmarks.operator`.

Prints one table: median times side by side in one run, as ratios, and temporary memory in units of
the operator's own arrays, x + w + y. Runs unchanged on any JAX backend.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tyro
from jax import lax
from rich.console import Console
from rich.table import Table

from carafe_jax import reassemble
from experiments.benchmarks.timing import compare


@dataclasses.dataclass(frozen=True)
class Case:
    """A shape of the operator: ``[batch, side, side, channels]``, rescaled by ``up / down``."""

    side: int
    up: int = 1
    down: int = 1
    channels: int = 256
    kernel_size: int = 5
    batch: int = 1
    dtype: str = "float32"

    def __str__(self) -> str:
        """A row's label."""
        scale = f"up {self.up}" if self.up > 1 else f"down {self.down}"
        return (
            f"{scale}, k={self.kernel_size}, {self.batch}x{self.side}x{self.side}x{self.channels}, "
            f"{self.dtype}"
        )


CASES = (
    Case(50, up=2),
    Case(100, down=2),
    Case(50, up=2, kernel_size=3),
    Case(50, up=2, kernel_size=7),
    Case(100, down=2, kernel_size=7),
    Case(50, up=4),
    Case(32, up=2, batch=16, channels=64),
    Case(64, down=2, batch=16, channels=32),
    Case(50, up=2, dtype="bfloat16"),
    Case(100, down=2, dtype="bfloat16"),
)


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


def with_gradient(
    function: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[..., object]:
    """Value and both gradients, for a given cotangent."""

    def run(x: jax.Array, weights: jax.Array, cotangent: jax.Array) -> object:
        y, pullback = jax.vjp(function, x, weights)
        return y, pullback(cotangent)

    return run


def arrays(case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random x, weights that sum to 1, and a cotangent."""
    keys = jax.random.split(jax.random.key(0), 3)
    out = -(-case.side * case.up // case.down)
    x = jax.random.normal(keys[0], (case.batch, case.side, case.side, case.channels))
    weights = jax.nn.softmax(
        jax.random.normal(keys[1], (case.batch, out, out, case.kernel_size**2))
    )
    cotangent = jax.random.normal(keys[2], (case.batch, out, out, case.channels))
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

        def ours(x: jax.Array, weights: jax.Array, case: Case = case) -> jax.Array:
            return reassemble(x, weights, kernel_size=case.kernel_size, up=case.up, down=case.down)

        def patches(x: jax.Array, weights: jax.Array, case: Case = case) -> jax.Array:
            return through_patches(x, weights, case)

        forward = {"ours": ours, "patches": patches}
        gradient = {name: with_gradient(function) for name, function in forward.items()}
        rows = {
            "forward": compare(forward, (x, weights), rounds),
            "with gradient": compare(gradient, (x, weights, cotangent), rounds),
        }
        for name, timings in rows.items():
            mine, theirs = timings["ours"], timings["patches"]
            table.add_row(
                str(case) if name == "forward" else "",
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
