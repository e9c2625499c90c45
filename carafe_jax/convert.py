r"""Conversion from and to mmcv: kernels, logits, and the parameters of a whole layer.

mmcv's ``carafe`` and ``CARAFEPack`` compute what :func:`carafe_jax.carafe` and the CARAFE layers
compute for ``down=1``. They store the same numbers in another order:

===================  ====================================  =====================================
\\                    mmcv                                  carafe-jax
===================  ====================================  =====================================
feature map          ``[N, C, H, W]``                      ``[..., H, W, C]``
kernels              ``[N, groups * k * k, up*H, up*W]``   ``[..., up*H, up*W, groups * k * k]``
channel of a logit   ``((g*k*k + tap)*up + sy)*up + sx``   ``((sy*up + sx)*groups + g)*k*k + tap``
weight of a          ``[features, channels, rows,          ``[rows, columns, channels,
convolution          columns]``                            features]``
===================  ====================================  =====================================

Every function here only moves values, so a conversion and its inverse give back the same bits.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Geometry
from jaxtyping import Array, Float

from carafe_jax._checks import checked_array

_CONVOLUTIONS = ("channel_compressor", "content_encoder")


def kernels_from_mmcv(
    masks: Float[Array, "batch groups*kernel_size**2 out_height out_width"],
) -> Float[Array, "batch out_height out_width groups*kernel_size**2"]:
    """Converts the ``masks`` of mmcv's ``carafe`` to ``weights`` of :func:`carafe_jax.reassemble`.

    Args:
        masks: normalised kernels ``[N, groups * k * k, H', W']``, floats.

    Returns:
        The kernels as ``[N, H', W', groups * k * k]`` in the dtype of ``masks``.

    Raises:
        ValueError: ``masks`` is not an array of floats of rank 4.
    """
    return jnp.moveaxis(_checked("masks", masks, "[N, groups * kernel_size**2, H', W']"), 1, 3)


def kernels_to_mmcv(
    weights: Float[Array, "batch out_height out_width groups*kernel_size**2"],
) -> Float[Array, "batch groups*kernel_size**2 out_height out_width"]:
    """Converts ``weights`` of :func:`carafe_jax.reassemble` to the ``masks`` of mmcv's ``carafe``.

    Args:
        weights: kernels ``[N, H', W', groups * k * k]``, floats.

    Returns:
        The kernels as ``[N, groups * k * k, H', W']`` in the dtype of ``weights``.

    Raises:
        ValueError: ``weights`` is not an array of floats of rank 4.
    """
    return jnp.moveaxis(_checked("weights", weights, "[N, H', W', groups * kernel_size**2]"), 3, 1)


def logits_from_mmcv(
    logits: Float[Array, "batch groups*kernel_size**2*up**2 height width"],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> Float[Array, "batch height width up**2*groups*kernel_size**2"]:
    """Converts the output of ``CARAFEPack.content_encoder`` to logits of :func:`carafe_jax.carafe`.

    >>> import jax.numpy as jnp
    >>> logits_from_mmcv(jnp.zeros((1, 100, 8, 12)), up=2).shape
    (1, 8, 12, 100)

    Args:
        logits: ``[N, groups * k * k * up * up, H, W]``, floats, before ``pixel_shuffle``.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The logits as ``[N, H, W, up * up * groups * k * k]`` in their dtype.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    layout = "[N, groups * kernel_size**2 * up**2, H, W]"
    logits = _checked("logits", logits, layout, 1, geometry)
    return _channels_from_mmcv(jnp.moveaxis(logits, 1, 3), geometry)


def logits_to_mmcv(
    logits: Float[Array, "batch height width up**2*groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> Float[Array, "batch groups*kernel_size**2*up**2 height width"]:
    """Converts logits of :func:`carafe_jax.carafe` to the order of ``CARAFEPack.content_encoder``.

    Args:
        logits: ``[N, H, W, up * up * groups * k * k]``, floats.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The logits as ``[N, groups * k * k * up * up, H, W]`` in their dtype.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    layout = "[N, H, W, up**2 * groups * kernel_size**2]"
    logits = _checked("logits", logits, layout, 3, geometry)
    return jnp.moveaxis(_channels_to_mmcv(logits, geometry), 3, 1)


def params_from_mmcv(
    state_dict: Mapping[str, Any],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Converts the parameters of a ``CARAFEPack`` to those of a CARAFE layer.

    ``CARAFEPack(channels, scale_factor, up_kernel, up_group, encoder_kernel, encoder_dilation,
    compressed_channels)`` corresponds to ``CARAFE(up=scale_factor, kernel_size=up_kernel,
    groups=up_group, encoder_size=encoder_kernel, encoder_dilation=encoder_dilation,
    compressed_channels=compressed_channels)``.

    In Linen the result is ``variables["params"]``. In NNX ``nnx.update(layer, params)`` loads it.

    Args:
        state_dict: ``CARAFEPack.state_dict()`` or its arrays under the same four names,
            ``channel_compressor.weight``, ``channel_compressor.bias``, ``content_encoder.weight``
            and ``content_encoder.bias``; anything that ``numpy.asarray`` takes, such as tensors on
            a CPU.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The parameters as NumPy arrays in their dtypes, ``{"kernel_predictor":
        {"channel_compressor": {"kernel", "bias"}, "content_encoder": {"kernel", "bias"}}}``.

    Raises:
        ValueError: a name is missing or unknown, or an array has a wrong shape.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    expected = {f"{name}.{kind}" for name in _CONVOLUTIONS for kind in ("weight", "bias")}
    _check_names("state_dict", state_dict, expected)
    params: dict[str, dict[str, np.ndarray]] = {}
    for name in _CONVOLUTIONS:
        kernel = np.asarray(state_dict[f"{name}.weight"])
        bias = np.asarray(state_dict[f"{name}.bias"])
        _check_convolution(f"state_dict of {name}", kernel, bias, features_axis=0)
        kernel = kernel.transpose(2, 3, 1, 0)  # [rows, columns, channels, features]
        if name == "content_encoder":
            _check_features(name, bias.size, geometry)
            kernel, bias = (_channels_from_mmcv(array, geometry) for array in (kernel, bias))
        params[name] = {"kernel": kernel, "bias": bias}
    return {"kernel_predictor": params}


def params_to_mmcv(
    params: Mapping[str, Any],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> dict[str, np.ndarray]:
    """Converts the parameters of a CARAFE layer to those of a ``CARAFEPack``.

    Args:
        params: ``variables["params"]`` of a Linen layer or ``nnx.to_pure_dict(nnx.state(layer,
            nnx.Param))`` of an NNX layer, with a compressor, and without BatchNorm.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The parameters as NumPy arrays in their dtypes, under the names of
        ``CARAFEPack.state_dict()``. Its ``load_state_dict`` takes them once each is a tensor.

    Raises:
        ValueError: a name is missing or unknown, or an array has a wrong shape.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    _check_names("params", params, {"kernel_predictor"})
    predictor = params["kernel_predictor"]
    _check_names("params['kernel_predictor']", predictor, set(_CONVOLUTIONS))
    state_dict = {}
    for name in _CONVOLUTIONS:
        _check_names(f"params of {name}", predictor[name], {"kernel", "bias"})
        kernel, bias = (np.asarray(predictor[name][kind]) for kind in ("kernel", "bias"))
        _check_convolution(f"params of {name}", kernel, bias, features_axis=3)
        if name == "content_encoder":
            _check_features(name, bias.size, geometry)
            kernel, bias = (_channels_to_mmcv(array, geometry) for array in (kernel, bias))
        state_dict[f"{name}.weight"] = kernel.transpose(3, 2, 0, 1)
        state_dict[f"{name}.bias"] = bias
    return state_dict


def _channels_from_mmcv[A: (jax.Array, np.ndarray)](array: A, geometry: Geometry) -> A:
    """Reorders the last axis, from ``(groups, taps, up, up)`` to ``(up, up, groups, taps)``."""
    first, up = array.shape[:-1], geometry.up
    kernels = array.reshape(*first, geometry.groups * geometry.taps, up * up)
    return kernels.swapaxes(-1, -2).reshape(array.shape)


def _channels_to_mmcv[A: (jax.Array, np.ndarray)](array: A, geometry: Geometry) -> A:
    """Reorders the last axis, from ``(up, up, groups, taps)`` to ``(groups, taps, up, up)``."""
    first, up = array.shape[:-1], geometry.up
    kernels = array.reshape(*first, up * up, geometry.groups * geometry.taps)
    return kernels.swapaxes(-1, -2).reshape(array.shape)


def _checked(
    name: str, array: Any, layout: str, axis: int = 0, geometry: Geometry | None = None
) -> jax.Array:
    array = checked_array(name, array)
    if array.ndim != 4:
        raise ValueError(f"{name} must be {layout}, got shape {array.shape}")
    if geometry is not None and array.shape[axis] != geometry.logit_channels:
        raise ValueError(
            f"{name} must be {layout} with {geometry.logit_channels} channels for {geometry}, "
            f"got shape {array.shape}"
        )
    return array


def _check_names(name: str, found: Mapping[str, Any], expected: set[str]) -> None:
    if set(found) != expected:
        raise ValueError(f"{name} must have the names {sorted(expected)}, got {sorted(found)}")


def _check_convolution(
    name: str, kernel: np.ndarray, bias: np.ndarray, *, features_axis: int
) -> None:
    if kernel.ndim != 4 or bias.shape != (kernel.shape[features_axis],):
        raise ValueError(
            f"{name} must be a kernel of rank 4 with its features on axis {features_axis} and a "
            f"bias of as many features, got shapes {kernel.shape} and {bias.shape}"
        )


def _check_features(name: str, features: int, geometry: Geometry) -> None:
    if features != geometry.logit_channels:
        raise ValueError(
            f"{name} must have {geometry.logit_channels} features for {geometry}, got {features}"
        )
