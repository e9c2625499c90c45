"""The names of all down- and upsamplers."""

from typing import Literal, get_args

Downsampler = Literal["strided", "max_pool", "avg_pool", "dpp", "lip", "carafe"]
Upsampler = Literal[
    "nearest",
    "bilinear",
    "nearest_conv",
    "bilinear_conv",
    "deconvolution",
    "pixel_shuffle",
    "guided",
    "spatial_attention",
    "carafe",
    "static_kernels",
    "encoded_box",
    "dysample",
    "dysample_plus",
    "fade",
    "fade_lite",
    "sapa",
]
UPSAMPLERS: tuple[Upsampler, ...] = get_args(Upsampler)
# Upsamplers that read a guide: a map of the size of the result.
GUIDED: tuple[Upsampler, ...] = ("fade", "fade_lite", "sapa")
# Upsamplers that mix their result with the guide, which must have the channels of the map.
GATED: tuple[Upsampler, ...] = ("fade", "fade_lite")
WITHOUT_GUIDE = tuple(method for method in UPSAMPLERS if method not in GUIDED)
WITHOUT_GATE = tuple(method for method in UPSAMPLERS if method not in GATED)


def unknown_method(method: str, methods: object) -> ValueError:
    """Returns the error for a ``method`` that is not in a ``Literal`` of methods."""
    return ValueError(f"method must be one of {get_args(methods)}, got {method!r}")
