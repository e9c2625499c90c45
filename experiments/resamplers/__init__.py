"""Every down- and upsampler that the paper compares, behind one interface each.

``methods`` names them. ``downsamplers`` has the pools and the convolutions that halve a map,
``upsamplers`` what doubles one. Both are functions for compact methods of Linen modules, with a
module each for what is more than a call.
"""

from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.convolutions import Deconvolution, PixelShuffle, depth_to_space
from experiments.resamplers.downsamplers import Downsample, downsampling_convolution, pool
from experiments.resamplers.methods import Downsampler, Upsampler
from experiments.resamplers.upsamplers import upsample

__all__ = [
    "CarafeConfig",
    "Deconvolution",
    "Downsample",
    "Downsampler",
    "PixelShuffle",
    "Upsampler",
    "depth_to_space",
    "downsampling_convolution",
    "pool",
    "upsample",
]
