"""Variables of a network without the compilation of its initialisation."""

import jax
import numpy as np


def drawn(module, *inputs, seed=0):
    """Numbers for all variables, of the size that keeps activations near 1.

    Args:
        module: a Linen module.
        inputs: of its ``init``; their shapes count.
        seed: of the numbers.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        values = rng.normal(scale=scale, size=leaf.shape)
        # Scales and variances of norms are near 1.
        return (values + 1 if name in ("scale", "var") else values).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
