"""Random values for the variables of a Linen module, without compiling its initialiser."""

import jax
import numpy as np


def random_variables(module, *inputs, seed=1):
    """Returns standard normal values for every variable, instead of its initial values.

    Args:
        module: Linen module.
        inputs: inputs of its ``init``; only their shapes matter.
        seed: seed of the values.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def scaled_variables(module, *inputs, seed=0, **options):
    """Returns values with which activations stay near 1 in a deep network; none is 0 or 1.

    Args:
        module: Linen module.
        inputs: inputs of its ``init``; only their shapes matter.
        seed: seed of the values.
        options: keyword arguments of its ``init``, such as ``method``.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        values = rng.normal(scale=scale, size=leaf.shape)
        # Scales and variances of normalisation are near 1.
        return (values + 1 if name in ("scale", "var") else values).astype(leaf.dtype)

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    return jax.tree.map_with_path(draw, shapes)
