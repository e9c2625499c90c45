"""All upsamplers for maps that keep their channels.

They are those of Tables 4 and 6, two controls, and upsamplers that were published after CARAFE++.

Call them in a compact method of a Linen module; their parameters become a submodule with the given
name. If the number of channels changes, as in inpainting, use the convolutions in
:mod:`experiments.resamplers.convolutions` directly.
"""

import dataclasses
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.linen import CARAFE
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.checks import checked_map
from experiments.resamplers.controls import EncodedBoxUpsample, StaticKernelUpsample
from experiments.resamplers.convolutions import (
    LECUN_NORMAL,
    Deconvolution,
    Initializer,
    PixelShuffle,
)
from experiments.resamplers.dysample import DySample
from experiments.resamplers.fade import FADE
from experiments.resamplers.guided import GuidedUpsample
from experiments.resamplers.interpolation import bilinear, nearest
from experiments.resamplers.methods import GUIDED, Upsampler, unknown_method
from experiments.resamplers.sapa import SAPA
from experiments.resamplers.spatial_attention import SpatialAttentionUpsample

_CARAFE = CarafeConfig()


def upsample(
    x: Float[Array, "batch height width channels"],
    method: Upsampler,
    *,
    name: str,
    size: tuple[int, int] | None = None,
    guide: Float[Array, "batch out_height out_width guide_channels"] | None = None,
    carafe: CarafeConfig = _CARAFE,
    deconvolution_size: int = 3,
    kernel_init: Initializer = LECUN_NORMAL,
    dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, "batch out_height out_width channels"]:
    """Doubles a map with the named method, optionally to one pixel less along an axis.

    The cost, with ``C`` channels; the module of each method gives the details:

    =====================  ====================================  ==============================
    method                 parameters                            operations for an output pixel
    =====================  ====================================  ==============================
    ``nearest``            0                                     0
    ``bilinear``           0                                     products with two matrices
    ``nearest_conv``       ``9 * C**2 + C``                      ``18 * C**2 + C``
    ``bilinear_conv``      ``9 * C**2 + C``                      ``18 * C**2 + C``, and bilinear
    ``deconvolution``      ``k**2 * C**2 + C``                   ``k**2 * C**2 / 2 + C``
    ``pixel_shuffle``      ``4 * (9 * C**2 + C)``                ``18 * C**2 + C``
    ``guided``             ``72 * C + 8``                        ``43 * C + 24``
    ``spatial_attention``  ``9 * C + 1``                         ``19 * C + 2``
    ``carafe``             ``C * Cm + Cm + 100 * (9 * Cm + 1)``  see below
    ``static_kernels``     100                                   ``49 * C``
    ``encoded_box``        as ``carafe``                         as ``carafe``, see below
    ``dysample``           ``32 * C``                            ``23 * C + 96``
    ``dysample_plus``      ``64 * C``                            ``39 * C + 112``
    ``fade``               ``129 * C + 14490``                   ``212.5 * C + 36248``
    ``fade_lite``          ``51 * C + 276``                      ``115 * C + 771``
    ``sapa``               ``68 * C + 64``                       ``137.75 * C + 975``
    =====================  ====================================  ==============================

    CARAFE++ of the default sizes, with ``Cm`` of 64, has ``C * Cm / 2 + Cm / 4`` operations of
    the compressor, ``25 * (18 * Cm + 1)`` of the encoder, 126 of the softmax and ``49 * C`` of the
    reassembly. At 256 channels this is 49,703; a 3x3 convolution has 1,179,904, nearest none.
    ``encoded_box`` has ``C`` for a sum instead of the softmax. The costs of ``fade``, ``fade_lite``
    and ``sapa`` are for a guide of ``C`` channels.

    Args:
        x: map ``[B, H, W, C]``.
        method: ``"nearest"`` and ``"bilinear"``: interpolation. ``"nearest_conv"`` and
            ``"bilinear_conv"``: interpolation and a 3x3 convolution. ``"deconvolution"``:
            transposed convolution of stride 2. ``"pixel_shuffle"``: a convolution to four times the
            channels, which become 2x2 pixels. ``"guided"``: bilinear, at learned positions.
            ``"spatial_attention"``: nearest, scaled at each pixel. ``"carafe"``: CARAFE++.
            ``"static_kernels"``: learned kernels without content. ``"encoded_box"``: a box filter,
            to which the predictor of CARAFE++ adds values. ``"dysample"`` and ``"dysample_plus"``:
            bilinear, at learned positions of groups. ``"fade"`` and ``"fade_lite"``: kernels from
            the map and a guide, and a gate. ``"sapa"``: kernels that compare a guide with the map.
        name: name of the submodule, if the method has parameters.
        size: height and width of the result, ``2 * H`` or ``2 * H - 1`` and ``2 * W`` or
            ``2 * W - 1``; an odd size is cropped at the end, to match a map that was halved and
            rounded up. The default is ``(2 * H, 2 * W)``.
        guide: map of the size of the result, such as the lateral of a pyramid. ``"fade"``,
            ``"fade_lite"`` and ``"sapa"`` need it; the first two need one with the channels of
            ``x``. The other methods do not read it.
        carafe: sizes of CARAFE++, of ``"static_kernels"`` and of ``"encoded_box"``.
        deconvolution_size: side ``k`` of the deconvolution's kernel: 3 in FPN, 2 in the mask head.
        kernel_init: initialiser of the convolution in the methods from ``"nearest_conv"`` to
            ``"pixel_shuffle"``; the other methods have their own.
        dtype: dtype of the computation, to which ``x`` and ``guide`` are cast, also from integers.
            By default convolutions compute in the common dtype of input and parameters, and the
            result has the dtype of ``x``.

    Returns:
        A map ``[B, *size, C]``.

    Raises:
        ValueError: ``x`` does not have rank 4 or a floating-point dtype, ``method`` is unknown,
            ``size`` is neither the double of the input nor one less, or a size of the method is out
            of range. ``guide`` is missing, or does not fit ``x`` and ``size``.
    """
    x = checked_map("x", _cast(x, dtype))
    height, width, channels = x.shape[1:]
    rows, columns = _target_size(height, width, size)
    if method in GUIDED:
        if guide is None:
            raise ValueError(f"guide must be [B, {rows}, {columns}, D] for {method!r}, got None")
        guide = checked_map("guide", _cast(guide, dtype))
        if guide.shape[1:3] != (rows, columns):
            raise ValueError(f"guide must have the size {(rows, columns)}, got {guide.shape}")
    match method:
        case "nearest":
            y = nearest(x)
        case "bilinear":
            y = bilinear(x)
        case "nearest_conv" | "bilinear_conv":
            convolution = nn.Conv(
                channels, (3, 3), padding=1, dtype=dtype, kernel_init=kernel_init, name=name
            )
            y = convolution(nearest(x) if method == "nearest_conv" else bilinear(x))
        case "deconvolution":
            y = Deconvolution(channels, deconvolution_size, dtype, kernel_init, name=name)(x)
        case "pixel_shuffle":
            y = PixelShuffle(channels, dtype, kernel_init, name=name)(x)
        case "guided":
            y = GuidedUpsample(dtype, name=name)(x)
        case "spatial_attention":
            y = SpatialAttentionUpsample(dtype, name=name)(x)
        case "carafe":
            layer = CARAFE(up=2, dtype=dtype, name=name, **dataclasses.asdict(carafe))
            y = layer(x, size=(rows, columns))
        case "static_kernels":
            y = StaticKernelUpsample(carafe, name=name)(x)
        case "encoded_box":
            y = EncodedBoxUpsample(carafe, dtype, name=name)(x)
        case "dysample" | "dysample_plus":
            y = DySample(method == "dysample_plus", dtype=dtype, name=name)(x)
        case "fade" | "fade_lite":
            y = FADE(method == "fade_lite", dtype, name=name)(x, guide)
        case "sapa":
            y = SAPA(dtype, name=name)(x, guide)
        case _:
            raise unknown_method(method, Upsampler)
    return y[:, :rows, :columns].astype(x.dtype)


def _cast(x: Any, dtype: jax.typing.DTypeLike | None) -> jax.Array:
    return jnp.asarray(x) if dtype is None else jnp.asarray(x, dtype)


def _target_size(height: int, width: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """The size of the result, checked, as Python integers."""
    if size is None:
        return 2 * height, 2 * width
    try:
        rows, columns = map(operator.index, size)
    except (TypeError, ValueError):
        raise ValueError(f"size must be two integers, height and width, got {size}") from None
    if (-(-rows // 2), -(-columns // 2)) != (height, width):
        raise ValueError(
            f"size must be the double of {(height, width)} or one less, got {(rows, columns)}"
        )
    return rows, columns
