"""Content-aware reassembly as functions: validate, choose an implementation, differentiate.

:func:`reassemble` applies given kernels (Eqn. 3 of the CARAFE++ paper); :func:`carafe` first
normalises predicted logits into kernels (section 3.2), which :func:`reassembly_kernels` shows.
All take channels-last maps and rescale by any ``up / down``.
"""

import dataclasses
import functools
import logging
from typing import get_args

import jax
from carafe_kernels.geometry import Geometry
from carafe_kernels.normalizers import normalize
from jaxtyping import Array, Float

from carafe_jax.checks import check_shape, checked_array, checked_logits, checked_map
from carafe_jax.differentiation import (
    Implementation,
    Normalizer,
    Plan,
    contract,
    kernels,
    placed_alike,
    reassemble_logits,
)

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
    x = checked_map(x, geometry)
    batch, height, width, _ = x.shape
    weights = checked_array("weights", weights)
    expected = (*map(geometry.output_size, (height, width)), geometry.weight_channels)
    check_shape(
        "weights", weights, "[B, H', W', groups * kernel_size**2]", (batch, *expected), x, geometry
    )
    chosen = _choose(implementation, geometry, x, weights)
    plan = _plan(geometry, x, weights, chosen, automatic=implementation is None)
    return contract(plan, "y", placed_alike(x, weights))


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
    x, logits = checked_logits(x, logits, geometry, normalizer)
    if _fuses(implementation, geometry, x, logits, normalizer):
        operands = placed_alike(x, logits)
        plan = _plan(geometry, x, logits, "mosaic_gpu", automatic=implementation is None)
        return reassemble_logits(plan, normalizer, operands["x"], operands["weights"])
    weights = normalize(logits, geometry, (x.shape[1], x.shape[2]), normalizer)
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
    x, logits = checked_logits(x, logits, geometry, normalizer)
    return normalize(logits, geometry, (x.shape[1], x.shape[2]), normalizer)


@functools.cache
def _log_once(message: str) -> None:
    _logger.debug(message)


# What implementation=None tries before "xla". The kernels of "mosaic_gpu" come in here when a GPU
# has shown them right and faster; so far they run where they are asked for by name.
_PREFERRED: tuple[Implementation, ...] = ()


def _reason(
    implementation: Implementation,
    geometry: Geometry,
    x: jax.Array,
    weights: jax.Array,
    device: jax.Device | None,
    normalizer: str | None = None,
) -> str | None:
    """Why an implementation cannot serve a call; ``None`` if it can."""
    return kernels(implementation).supports(
        geometry, x.dtype, x.shape, device, weights_dtype=weights.dtype, normalizer=normalizer
    )


def _default_device() -> jax.Device:
    default = jax.config.jax_default_device
    if isinstance(default, jax.Device):
        return default
    return jax.local_devices(backend=default)[0]


def _automatic(geometry: Geometry, x: jax.Array, weights: jax.Array) -> Implementation:
    for candidate in _PREFERRED:
        reason = _reason(candidate, geometry, x, weights, _default_device())
        if reason is None:
            return candidate
        _log_once(f"implementation=None does not run {candidate!r}: {reason}")
    return "xla"


def _choose(
    implementation: Implementation | None, geometry: Geometry, x: jax.Array, weights: jax.Array
) -> Implementation:
    if implementation is None:
        return _automatic(geometry, x, weights)
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"implementation must be None or one of {get_args(Implementation)}, "
            f"got {implementation!r}"
        )
    # What is traced here may be lowered for another platform, which then says what it lacks; a
    # GPU of this process is what it will run on.
    device = _default_device()
    reason = _reason(
        implementation, geometry, x, weights, device if device.platform == "gpu" else None
    )
    if reason is not None:
        raise NotImplementedError(
            f"implementation {implementation!r} cannot serve this call: {reason}; "
            "implementation='xla' or None can"
        )
    return implementation


def _fuses(
    implementation: Implementation | None,
    geometry: Geometry,
    x: jax.Array,
    logits: jax.Array,
    normalizer: str,
) -> bool:
    """Whether a kernel that normalises by itself serves a call."""
    chosen = _choose(implementation, geometry, x, logits)
    if chosen != "mosaic_gpu":
        return False
    reason = _reason(chosen, geometry, x, logits, None, normalizer)
    if reason is not None:
        _log_once(f"logits are normalised apart: {reason}")
    return reason is None


def _plan(
    geometry: Geometry,
    x: jax.Array,
    weights: jax.Array,
    implementation: Implementation,
    *,
    automatic: bool,
) -> Plan:
    _, height, width, _ = x.shape
    return Plan(
        geometry,
        (height, width),
        x.dtype,
        weights.dtype,
        implementation,
        automatic,
        kernels(implementation).current_settings() if implementation == "mosaic_gpu" else None,
    )
