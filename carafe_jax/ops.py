"""Content-aware reassembly as functions: validate, choose an implementation, differentiate.

:func:`reassemble` applies given kernels (Eqn. 3 of the CARAFE++ paper); :func:`carafe` first
normalises predicted logits into kernels (section 3.2), which :func:`reassembly_kernels` shows.
All take channels-last maps and rescale by any ``up / down``.
"""

import dataclasses
import functools
import logging
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels import xla
from carafe_kernels.geometry import Geometry
from carafe_kernels.normalizers import NORMALIZERS, normalize
from jaxtyping import Array, Float

Implementation = Literal["xla", "mosaic_gpu"]
Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_logger = logging.getLogger("carafe_jax")


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
        implementation: ``"xla"``, ``"mosaic_gpu"``, or ``None`` for the best that supports this
            geometry, dtype, shape and device.

    Returns:
        The rescaled map ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot serve this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    implementation = _choose(implementation)
    x = _checked_map(x, geometry)
    batch, height, width, _ = x.shape
    weights = _checked_array("weights", weights)
    expected = (*map(geometry.output_size, (height, width)), geometry.weight_channels)
    _check_shape(
        "weights", weights, "[B, H', W', groups * kernel_size**2]", (batch, *expected), x, geometry
    )
    plan = _Plan(geometry, (height, width), x.dtype, weights.dtype, implementation)
    return _contract(plan, "y", _placed_alike(x, weights))


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
        implementation: as in :func:`reassemble`.

    Returns:
        The rescaled map ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot serve this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    x = _checked_map(x, geometry)
    weights = reassembly_kernels(x, logits, normalizer=normalizer, **dataclasses.asdict(geometry))
    return reassemble(x, weights, implementation=implementation, **dataclasses.asdict(geometry))


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
        x: as in :func:`carafe`; only its shape matters.
        logits: as in :func:`carafe`.
        kernel_size: side ``k`` of the neighbourhood, odd.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups with kernels of their own; divides ``C``.
        normalizer: as in :func:`carafe`.

    Returns:
        Weights for :func:`reassemble`, ``[B, ceil(H * up / down), ceil(W * up / down),
        groups * k * k]`` in float32, or in float64 for float64 logits.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    check_normalizer(normalizer)
    x = _checked_map(x, geometry)
    batch, height, width, _ = x.shape
    logits = _checked_array("logits", logits)
    expected = (*map(geometry.cells, (height, width)), geometry.logit_channels)
    _check_shape(
        "logits",
        logits,
        "[B, ceil(H / down), ceil(W / down), up**2 * groups * kernel_size**2]",
        (batch, *expected),
        x,
        geometry,
    )
    return normalize(logits, geometry, (height, width), normalizer)


def check_groups(groups: int, channels: int) -> None:
    """Raises ``ValueError`` unless ``groups`` divides ``channels``."""
    if channels % groups:
        raise ValueError(f"groups must divide the {channels} channels of x, got {groups}")


def check_normalizer(normalizer: str) -> None:
    """Raises ``ValueError`` unless ``normalizer`` is known."""
    if not isinstance(normalizer, str) or normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {sorted(NORMALIZERS)}, got {normalizer!r}")


def _checked_array(name: str, array: Any) -> jax.Array:
    if not isinstance(array, jax.Array | np.ndarray):
        raise ValueError(f"{name} must be a JAX or NumPy array, got {type(array).__name__}")
    if array.dtype.name not in _DTYPES or not array.dtype.isnative:
        raise ValueError(f"{name} must have one of the dtypes {_DTYPES}, got {array.dtype}")
    if array.ndim != 4:
        raise ValueError(f"{name} must have rank 4, channels last, got shape {array.shape}")
    return jnp.asarray(array)


def _checked_map(x: Any, geometry: Geometry) -> jax.Array:
    x = _checked_array("x", x)
    _, height, width, channels = x.shape
    if min(height, width, channels) < 1:
        raise ValueError(
            f"x must be [B, H, W, C] with H, W and C of at least 1, got shape {x.shape}"
        )
    check_groups(geometry.groups, channels)
    return x


def _check_shape(
    name: str,
    array: jax.Array,
    layout: str,
    expected: tuple[int, ...],
    x: jax.Array,
    geometry: Geometry,
) -> None:
    if array.shape != expected:
        raise ValueError(
            f"{name} must be {layout} = {expected} for x of shape {x.shape} and {geometry}, "
            f"got shape {array.shape}"
        )


@functools.cache
def _log_once(message: str) -> None:
    _logger.debug(message)


def _choose(implementation: str | None) -> Implementation:
    missing = "the mosaic_gpu kernels are not part of this version of carafe-jax"
    match implementation:
        case None:
            _log_once(f"{missing}: implementation=None runs 'xla'")
            return "xla"
        case "xla":
            return "xla"
        case "mosaic_gpu":
            raise NotImplementedError(
                f"implementation 'mosaic_gpu' cannot run: {missing}; "
                "implementation='xla' or None runs on this device"
            )
    raise ValueError(
        f"implementation must be None or one of {get_args(Implementation)}, got {implementation!r}"
    )


_Slot = Literal["x", "weights", "y"]


def _placed_alike(x: jax.Array, weights: jax.Array) -> dict[_Slot, jax.Array]:
    """Spreads an operand that is the same on all devices as the other one is spread.

    Its gradient is then summed over the devices where it is spread; a ``custom_vjp`` by itself
    would return a part of the sum on each.
    """
    operands: dict[_Slot, jax.Array] = {"x": x, "weights": weights}
    types = [jax.typeof(operand) for operand in operands.values()]
    varying = frozenset().union(*(t.manual_axis_type.varying for t in types))  # in a shard_map
    batch_axes = {t.sharding.spec[0] for t in types} - {None}  # under explicit sharding
    for (slot, operand), operand_type in zip(operands.items(), types, strict=True):
        if missing := varying - operand_type.manual_axis_type.varying:
            operand = jax.lax.pcast(operand, tuple(sorted(missing)), to="varying")
        if len(batch_axes) == 1 and operand_type.sharding.spec[0] is None:
            _, *others = operand_type.sharding.spec
            operand = jax.sharding.reshard(
                operand, jax.sharding.PartitionSpec(*batch_axes, *others)
            )
        operands[slot] = operand
    return operands


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What stays fixed through all derivatives of one reassembly."""

    geometry: Geometry
    size: tuple[int, int]  # (H, W) of x
    x_dtype: np.dtype
    weights_dtype: np.dtype
    implementation: Implementation

    @property
    def accumulator(self) -> np.dtype:
        return jnp.promote_types(jnp.promote_types(self.x_dtype, self.weights_dtype), jnp.float32)

    def dtype(self, slot: _Slot) -> np.dtype:
        return self.weights_dtype if slot == "weights" else self.x_dtype


# Compiled also when called eagerly: op by op, the taps would not fuse.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(plan: _Plan, result: _Slot, operands: dict[_Slot, jax.Array]) -> jax.Array:
    dtype = plan.accumulator
    match result:
        case "y":
            out = xla.forward(operands["x"], operands["weights"], plan.geometry, dtype)
        case "x":
            out = xla.input_gradient(
                operands["weights"], operands["y"], plan.geometry, plan.size, dtype
            )
        case "weights":
            out = xla.weight_gradient(operands["x"], operands["y"], plan.geometry, dtype)
    return out.astype(plan.dtype(result))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _contract(plan: _Plan, result: _Slot, operands: dict[_Slot, jax.Array]) -> jax.Array:
    """Contracts the trilinear form ``sum(weights * y * gather(x))`` to the slot left out.

    A derivative of a contraction with respect to an operand is the contraction that leaves this
    operand out, with the cotangent in the slot of the result. So one rule differentiates to any
    order, and every implementation brings three functions and no rule of its own.
    """
    return _compute(plan, result, operands)


def _contract_fwd(
    plan: _Plan, result: _Slot, operands: dict[_Slot, jax.Array]
) -> tuple[jax.Array, dict[_Slot, jax.Array]]:
    return _contract(plan, result, operands), operands


def _contract_bwd(
    plan: _Plan, result: _Slot, operands: dict[_Slot, jax.Array], cotangent: jax.Array
) -> tuple[dict[_Slot, jax.Array]]:
    first, second = operands
    return (
        {
            first: _contract(plan, first, {result: cotangent, second: operands[second]}),
            second: _contract(plan, second, {result: cotangent, first: operands[first]}),
        },
    )


_contract.defvjp(_contract_fwd, _contract_bwd)
