"""Chains of random reassemblies."""

import numpy as np

from carafe_jax.sources import Reassembly
from tests.kernels import oracle


def softmax_kernels(rng, shape, groups, taps):
    logits = rng.standard_normal((*shape, groups, taps))
    return oracle.softmax(logits).reshape(*shape, groups * taps).astype(np.float32)


def random_step(rng, size, up=1, down=1, kernel_size=3, groups=1, batch=(), name=""):
    output = [oracle.output_size(n, up, down) for n in size]
    kernels = softmax_kernels(rng, (*batch, *output), groups, kernel_size**2)
    return Reassembly(
        kernels=kernels,
        size=tuple(size),
        kernel_size=kernel_size,
        up=up,
        down=down,
        groups=groups,
        name=name,
    )


def random_chain(rng, size, scales, groups=(1,) * 4, crops=(0,) * 4, **options):
    """A chain; a map is cropped by an entry of `crops` before the next reassembly."""
    chain = []
    for (up, down), group, crop in zip(scales, groups, crops, strict=False):
        chain.append(random_step(rng, size, up, down, groups=group, **options))
        size = [n - min(crop % up, n - 1) for n in chain[-1].output_size]
    return chain


def random_pyramid():
    """An upsampler of 2 groups, a crop, and a downsampler of 3 groups."""
    return random_chain(np.random.default_rng(0), (3, 4), [(2, 1), (1, 2)], (2, 3), (1, 0))
