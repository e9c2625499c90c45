"""Variables of a network before its first step."""

from typing import Any

import flax.linen as nn
import jax


def draw_variables(module: nn.Module, key: jax.Array, *inputs: Any, **options: Any) -> Any:
    """Draws a network's variables; they depend on network and key alone.

    They are drawn on the CPU, to be the same for every accelerator.

    Args:
        module: a Linen module.
        key: of the draw; see :func:`initial_key`.
        inputs: shapes and dtypes of its inputs, as ``jax.ShapeDtypeStruct``.
        options: of ``module.lazy_init``, such as ``method``.

    Returns:
        All collections, ``params`` among them.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(lambda drawn: module.lazy_init(drawn, *inputs, **options))(key)


def initial_key(seed: int) -> jax.Array:
    """A key by the generator that takes a fifth of the time to compile."""
    return jax.random.key(seed, impl="rbg")
