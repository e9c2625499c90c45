r"""Conversion from and to mmcv: kernels, logits, and the parameters of a whole layer.

mmcv's ``CARAFEPack`` computes what the CARAFE layers compute for ``down=1`` and
``normalizer="softmax"``. mmcv's ``carafe`` computes what :func:`carafe_jax.reassemble` computes for
``down=1``. mmcv stores the same numbers in another order:

==================  =======================================  =======================================
\                   mmcv                                     carafe-jax
==================  =======================================  =======================================
feature map         ``[..., C, H, W]``                       ``[..., H, W, C]``
kernels             ``[..., groups * k * k, up*H, up*W]``    ``[..., up*H, up*W, groups * k * k]``
channel of a logit  ``((g*k*k + tap)*up + sy)*up + sx``      ``((sy*up + sx)*groups + g)*k*k + tap``
convolution kernel  ``[features, channels, rows, columns]``  ``[rows, columns, channels, features]``
==================  =======================================  =======================================

Every function here only moves values, so a conversion and its inverse give back the same bits.
Unless ``jax_enable_x64`` is set, functions that return JAX arrays convert float64 to float32.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Geometry
from jaxtyping import Array, Float

from carafe_jax._checks import DTYPES, checked_array

_CONVOLUTIONS = ("channel_compressor", "content_encoder")
_NAMES = [f"{name}.{kind}" for name in _CONVOLUTIONS for kind in ("weight", "bias")]


def kernels_from_mmcv(
    masks: Float[Array, "*batch groups*kernel_size**2 out_height out_width"],
) -> Float[Array, "*batch out_height out_width groups*kernel_size**2"]:
    """Converts the ``masks`` of mmcv's ``carafe`` to ``weights`` of :func:`carafe_jax.reassemble`.

    Args:
        masks: normalised kernels ``[..., groups * k * k, H', W']``, floats.

    Returns:
        The kernels as ``[..., H', W', groups * k * k]`` in the dtype of ``masks``.

    Raises:
        ValueError: ``masks`` is not an array of floats of rank 3 or more.
    """
    return jnp.moveaxis(_checked("masks", masks, "[..., groups * kernel_size**2, H', W']"), -3, -1)


def kernels_to_mmcv(
    weights: Float[Array, "*batch out_height out_width groups*kernel_size**2"],
) -> Float[Array, "*batch groups*kernel_size**2 out_height out_width"]:
    """Converts ``weights`` of :func:`carafe_jax.reassemble` to the ``masks`` of mmcv's ``carafe``.

    Args:
        weights: kernels ``[..., H', W', groups * k * k]``, floats; ``[N, H', W', ...]`` for mmcv.

    Returns:
        The kernels as ``[..., groups * k * k, H', W']`` in the dtype of ``weights``.

    Raises:
        ValueError: ``weights`` is not an array of floats of rank 3 or more.
    """
    layout = "[..., H', W', groups * kernel_size**2]"
    return jnp.moveaxis(_checked("weights", weights, layout), -1, -3)


def logits_from_mmcv(
    logits: Float[Array, "*batch groups*kernel_size**2*up**2 height width"],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> Float[Array, "*batch height width up**2*groups*kernel_size**2"]:
    """Converts the output of ``CARAFEPack.content_encoder`` to logits of :func:`carafe_jax.carafe`.

    >>> import jax.numpy as jnp
    >>> logits_from_mmcv(jnp.zeros((1, 100, 8, 12)), up=2).shape
    (1, 8, 12, 100)

    Args:
        logits: ``[..., groups * k * k * up * up, H, W]``, floats, before ``pixel_shuffle``.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The logits as ``[..., H, W, up * up * groups * k * k]`` in their dtype.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    layout = "[..., groups * kernel_size**2 * up**2, H, W]"
    logits = _checked("logits", logits, layout, -3, geometry)
    return _channels_from_mmcv(jnp.moveaxis(logits, -3, -1), geometry)


def logits_to_mmcv(
    logits: Float[Array, "*batch height width up**2*groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> Float[Array, "*batch groups*kernel_size**2*up**2 height width"]:
    """Converts logits of :func:`carafe_jax.carafe` to the order of ``CARAFEPack.content_encoder``.

    Args:
        logits: ``[..., H, W, up * up * groups * k * k]``, floats; ``[N, H, W, ...]`` for mmcv.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The logits as ``[..., groups * k * k * up * up, H, W]`` in their dtype.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    layout = "[..., H, W, up**2 * groups * kernel_size**2]"
    logits = _checked("logits", logits, layout, -1, geometry)
    return jnp.moveaxis(_channels_to_mmcv(logits, geometry), -1, -3)


def params_from_mmcv(
    state_dict: Mapping[str, Any],
    *,
    kernel_size: int = 5,
    up: int = 2,
    groups: int = 1,
) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """Converts the parameters of a ``CARAFEPack`` to those of a CARAFE layer.

    ``CARAFEPack(channels, scale_factor, up_kernel, up_group, encoder_kernel, encoder_dilation,
    compressed_channels)`` corresponds to ``CARAFE(up=scale_factor, kernel_size=up_kernel,
    groups=up_group, encoder_size=encoder_kernel, encoder_dilation=encoder_dilation,
    compressed_channels=compressed_channels)``.

    In Linen the result is ``variables["params"]``. In NNX ``nnx.update(layer, params)`` loads it.
    The layer must have the options of the ``CARAFEPack``.

    Args:
        state_dict: ``CARAFEPack.state_dict()`` or its arrays under the same four names,
            ``channel_compressor.weight``, ``channel_compressor.bias``, ``content_encoder.weight``
            and ``content_encoder.bias``. The arrays may be anything that ``numpy.asarray`` takes,
            such as tensors on a CPU, except tensors in bfloat16, which NumPy cannot read.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The parameters as JAX arrays in their dtypes, as a tree
        ``{"kernel_predictor": {"channel_compressor": {"kernel", "bias"},
        "content_encoder": {"kernel", "bias"}}}``.

    Raises:
        ValueError: a name is missing or unknown, or an array has a wrong shape or dtype.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    _check_names("state_dict", state_dict, set(_NAMES))
    labels = [f"state_dict[{name!r}]" for name in _NAMES]
    arrays = {
        label: _floats(label, state_dict[name]) for label, name in zip(labels, _NAMES, strict=True)
    }
    _check_convolutions(arrays, "OIHW", geometry)
    compressor, compressor_bias, encoder, encoder_bias = map(jnp.asarray, arrays.values())
    return {
        "kernel_predictor": {
            "channel_compressor": {
                "kernel": compressor.transpose(2, 3, 1, 0),
                "bias": compressor_bias,
            },
            "content_encoder": {
                "kernel": _channels_from_mmcv(encoder.transpose(2, 3, 1, 0), geometry),
                "bias": _channels_from_mmcv(encoder_bias, geometry),
            },
        }
    }


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
            nnx.Param))`` of an NNX layer. The layer must have a compressor, no BatchNorm and
            ``normalizer="softmax"``.
        kernel_size: side ``k`` of the kernels, odd; ``up_kernel`` of ``CARAFEPack``.
        up: upsampling factor; ``scale_factor`` of ``CARAFEPack``.
        groups: number of channel groups; ``up_group`` of ``CARAFEPack``.

    Returns:
        The parameters as new NumPy arrays in their dtypes, under the names of
        ``CARAFEPack.state_dict()``. Convert each to a tensor by ``torch.from_numpy``, which does
        not support bfloat16, and pass them to ``load_state_dict``.

    Raises:
        ValueError: a name is missing or unknown, or an array has a wrong shape or dtype.
    """
    geometry = Geometry(kernel_size, up, groups=groups)
    _check_names("params", params, {"kernel_predictor"})
    predictor = params["kernel_predictor"]
    _check_names("params['kernel_predictor']", predictor, set(_CONVOLUTIONS))
    arrays = {}
    for convolution in _CONVOLUTIONS:
        path = f"params['kernel_predictor']['{convolution}']"
        _check_names(path, predictor[convolution], {"kernel", "bias"})
        for kind in ("kernel", "bias"):
            name = f"{path}['{kind}']"
            arrays[name] = np.asarray(_floats(name, predictor[convolution][kind]))
    _check_convolutions(arrays, "HWIO", geometry)
    compressor, compressor_bias, encoder, encoder_bias = arrays.values()
    converted = (
        compressor.transpose(3, 2, 0, 1),
        compressor_bias,
        _channels_to_mmcv(encoder, geometry).transpose(3, 2, 0, 1),
        _channels_to_mmcv(encoder_bias, geometry),
    )
    # torch.from_numpy warns about read-only memory, and JAX arrays are read-only.
    copies = (np.array(array, order="C") for array in converted)
    return dict(zip(_NAMES, copies, strict=True))


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


def _floats(name: str, array: Any) -> jax.Array | np.ndarray:
    """Returns a JAX array unchanged and other arrays as NumPy arrays, or raises ``ValueError``."""
    if not isinstance(array, jax.Array):
        has_jax_array = hasattr(array, "__jax_array__")
        array = array.__jax_array__() if has_jax_array else np.asarray(array)
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise ValueError(f"{name} must have one of the dtypes {DTYPES}, got {array.dtype}")
    return array


def _checked(
    name: str, array: Any, layout: str, axis: int = 0, geometry: Geometry | None = None
) -> jax.Array:
    array = checked_array(name, array, layout)
    if geometry is not None and array.shape[axis] != geometry.logit_channels:
        raise ValueError(
            f"{name} must be {layout} with {geometry.logit_channels} channels for {geometry}, "
            f"got shape {array.shape}"
        )
    return array


def _check_names(name: str, found: Any, expected: set[str]) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{name} must be a mapping with the names {sorted(expected)}, "
            f"got {type(found).__name__}"
        )
    if set(found) != expected:
        raise ValueError(
            f"{name} must have the names {sorted(expected)}, got {sorted(map(str, found))}"
        )


def _check_convolutions(
    arrays: Mapping[str, jax.Array | np.ndarray], layout: str, geometry: Geometry
) -> None:
    """Raises ``ValueError`` unless the arrays have the shapes of a compressor and an encoder.

    Args:
        arrays: kernel and bias of the compressor, then kernel and bias of the encoder, by their
            names in messages.
        layout: order of the axes of a kernel, ``O`` features, ``I`` channels, ``H`` and ``W``.
        geometry: geometry of the reassembly for which the encoder predicts logits.
    """
    names, shapes = list(arrays), [array.shape for array in arrays.values()]
    for name, shape in zip(names[::2], shapes[::2], strict=True):
        if len(shape) != 4:
            raise ValueError(f"{name} must have rank 4, {', '.join(layout)}, got shape {shape}")
    compressor, encoder = (dict(zip(layout, shape, strict=True)) for shape in shapes[::2])
    if encoder["H"] % 2 == 0:
        raise ValueError(
            f"{names[2]} must have an odd height and width, {', '.join(layout)}, got {shapes[2]}"
        )
    compressor |= {"H": 1, "W": 1}
    encoder |= {"O": geometry.logit_channels, "I": compressor["O"], "W": encoder["H"]}
    expected = []
    for sizes in (compressor, encoder):
        expected += [tuple(sizes[axis] for axis in layout), (sizes["O"],)]
    for name, shape, wanted in zip(names, shapes, expected, strict=True):
        if shape != wanted:
            raise ValueError(f"{name} must have shape {wanted} for {geometry}, got shape {shape}")
