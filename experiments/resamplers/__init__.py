"""Every down- and upsampler that the paper compares, behind one interface each.

``methods`` names them. ``downsamplers`` has the pools and the convolutions that halve a map, with
a module each for the pools that are more than a call; ``upsamplers`` has what doubles one.
"""

from experiments.resamplers.downsamplers import Downsample, downsampling_convolution, pool
from experiments.resamplers.methods import Downsampler, Upsampler
from experiments.resamplers.upsamplers import CONVOLUTIONS, Upsample, depth_to_space, upsample

__all__ = [
    "CONVOLUTIONS",
    "Downsample",
    "Downsampler",
    "Upsample",
    "Upsampler",
    "depth_to_space",
    "downsampling_convolution",
    "pool",
    "upsample",
]
