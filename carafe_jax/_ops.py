"""Content-aware reassembly as functions: validate, choose an implementation, differentiate.

:func:`reassemble` applies given kernels (Eqn. 3 of the CARAFE++ paper); :func:`carafe` first
normalises predicted logits into kernels (section 3.2), which :func:`reassembly_kernels` shows.
All take channels-last maps and rescale by any ``up / down``.
"""

import jax
from carafe_kernels.choice import choose
from carafe_kernels.geometry import Geometry
from carafe_kernels.names import Implementation, Normalizer
from carafe_kernels.normalizers import normalize
from carafe_kernels.plan import Plan
from carafe_kernels.sharding import with_common_sharding
from jaxtyping import Array, Float

from carafe_jax._checks import check_shape, checked_array, checked_logits, checked_map
from carafe_jax._differentiation import contract
from carafe_jax._logit_differentiation import reassemble_logits


def reassemble(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    implementation: Implementation | None = None,
) -> Float[Array, "batch out_height out_width channels"]:
    r"""Reassembles a feature map with one given kernel per output pixel (Eqn. 3).

    .. math::
        y_{i'j'c} = \sum_{n=0}^{k-1} \sum_{m=0}^{k-1}
            w_{i'j',\,g(c),\,nk+m} \; x_{i+n-r,\,j+m-r,\,c}

    with the centre :math:`i = \lfloor i' \cdot down / up \rfloor`, :math:`r = \lfloor k/2 \rfloor`
    and :math:`g(c)` the channel group of :math:`c`. Taps outside the map count as zero. Sums run
    in float32, or in float64 if an argument is float64.

    Differentiable in reverse mode to any order; not in forward mode (``jax.jvp``).

    Arrays may be sharded over the batch, and maps over channels: then nothing is gathered, and the
    gradient of weights that all channels have in common is summed over the devices. With several
    groups, each device must have whole groups. Other shardings give the same result, after one
    operand has been resharded like the other along batch and channels and all other axes have been
    gathered. With ``"xla"``, XLA's partitioner gathers maps that are sharded over channels for the
    gradient of the weights, and with automatic mesh axes it decides the rest too.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> weights = jnp.zeros((1, 4, 4, 9)).at[..., 4].set(1.0)  # one-hot at the centre tap
    >>> reassemble(x, weights, kernel_size=3, up=2)[0, :, :, 0]  # nearest-neighbour upsampling
    Array([[0., 0., 1., 1.],
           [0., 0., 1., 1.],
           [2., 2., 3., 3.],
           [2., 2., 3., 3.]], dtype=float32)

    Args:
        x: feature map ``[B, H, W, C]`` in float16, bfloat16, float32 or float64. ``B`` may be 0.
        weights: kernels ``[B, ceil(H * up / down), ceil(W * up / down), groups * k * k]``,
            group-major, then row-major taps; any of the four dtypes, not necessarily that of ``x``.
        kernel_size: side ``k`` of the neighbourhood, odd; 5 in the paper.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups with kernels of their own; divides ``C``.
        implementation: ``"xla"``, ``"mosaic_gpu"``, or ``None``: the GPU kernels where a GPU has
            proven them right and faster (:mod:`carafe_kernels.proven`), else ``"xla"``. The call is
            looked up when it is traced, for all GPUs of this process, if a GPU is JAX's default
            device; a program that is lowered for another platform runs ``"xla"`` still.

    Returns:
        The rescaled map ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot serve this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    x = checked_map(x, geometry)
    batch, height, width, _ = x.shape
    weights = checked_array("weights", weights)
    expected = (*map(geometry.output_size, (height, width)), geometry.weight_channels)
    check_shape(
        "weights", weights, "[B, H', W', groups * kernel_size**2]", (batch, *expected), x, geometry
    )
    return _reassembled(choose(implementation, geometry, x, weights), x, weights)


def carafe(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch cell_rows cell_columns up**2*groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    normalizer: Normalizer = "softmax",
    implementation: Implementation | None = None,
) -> Float[Array, "batch out_height out_width channels"]:
    """Normalises predicted logits into kernels and reassembles ``x`` with them (section 3).

    Logits have the resolution of the convolution that predicts them: one place for every
    ``down`` sources, with the kernels of its ``up * up`` outputs in the channels.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 6, 6, 8))
    >>> carafe(x, jnp.zeros((1, 3, 3, 25)), down=2).shape
    (1, 3, 3, 8)
    >>> carafe(x, jnp.zeros((1, 6, 6, 100)), up=2).shape
    (1, 12, 12, 8)

    Devices may share its arrays as in :func:`reassemble`; but logits have no channels that go with
    a group, so kernels that read logits gather the channels of ``x`` if there are several groups.

    Args:
        x: feature map ``[B, H, W, C]`` in float16, bfloat16, float32 or float64. ``B`` may be 0.
        logits: ``[B, ceil(H / down), ceil(W / down), up * up * groups * k * k]``, with channel
            ``((sy * up + sx) * groups + g) * k * k + tap`` for the output at row ``sy`` and
            column ``sx`` of its place; any of the four dtypes.
        kernel_size: side ``k`` of the neighbourhood, odd; 5 in the paper.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups with kernels of their own; divides ``C``.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14). It runs
            over all ``k * k`` taps, so kernels at the border lose the weight that falls outside.
        implementation: ``"xla"``, ``"mosaic_gpu"``, or ``None``: the GPU kernels where a GPU has
            proven them right and faster (:mod:`carafe_kernels.proven`), else ``"xla"``. The call is
            looked up when it is traced, for all GPUs of this process, if a GPU is JAX's default
            device; a program that is lowered for another platform runs ``"xla"`` still.

    Returns:
        The rescaled map ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot serve this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    x, logits = checked_logits(x, logits, geometry, normalizer)
    plan = choose(implementation, geometry, x, logits, normalizer)
    sharded_x, logits = with_common_sharding(x, logits, groups, "logits")
    if plan.normalizer is not None:
        return reassemble_logits(plan, {"x": sharded_x, "logits": logits})
    weights = normalize(logits, geometry, plan.size, normalizer)
    return _reassembled(plan, x, weights)


def _reassembled(plan: Plan, x: jax.Array, weights: jax.Array) -> jax.Array:
    x, weights = with_common_sharding(x, weights, plan.geometry.groups, "weights")
    return contract(plan, "y", {"x": x, "weights": weights})


def reassembly_kernels(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch cell_rows cell_columns up**2*groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    normalizer: Normalizer = "softmax",
) -> Float[Array, "batch out_height out_width groups*kernel_size**2"]:
    """The kernels that :func:`carafe` applies to ``x``, one per output pixel.

    Args:
        x: feature map ``[B, H, W, C]`` in float16, bfloat16, float32 or float64; only its shape
            matters.
        logits: ``[B, ceil(H / down), ceil(W / down), up * up * groups * k * k]``, with channel
            ``((sy * up + sx) * groups + g) * k * k + tap`` for the output at row ``sy`` and
            column ``sx`` of its place; any of the four dtypes.
        kernel_size: side ``k`` of the neighbourhood, odd.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups with kernels of their own; divides ``C``.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14).

    Returns:
        Weights for :func:`reassemble`, ``[B, ceil(H * up / down), ceil(W * up / down),
        groups * k * k]`` in float32, or in float64 for float64 logits.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    x, logits = checked_logits(x, logits, geometry, normalizer)
    _, logits = with_common_sharding(x, logits, groups, "logits")
    return normalize(logits, geometry, (x.shape[1], x.shape[2]), normalizer)
