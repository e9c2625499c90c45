"""XLA multiplies the gradient of a convolution's kernel on some meshes: README.md, Limits.

``JAX_NUM_CPU_DEVICES=4 python docs/sharded_convolutions.py`` prints 128, 256, 128 with JAX 0.11.2
and 0.12.0. Right is 128: the pixels of two maps of 8x8.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


@jax.jit
@jax.grad
def gradient(kernel, x):
    """Of the sum of what a convolution gives, by its kernel."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers).sum()


mesh = jax.make_mesh((2, 2), ("rows", "other"), axis_types=(AxisType.Auto,) * 2)
kernel, x = jnp.ones((3, 3, 1, 1)), jnp.ones((2, 8, 8, 1))
for spec in P(), P(None, "rows"), P("other", "rows"):
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    print(gradient(kernel, sharded)[1, 1, 0, 0])
