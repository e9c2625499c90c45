"""What tests of convolutions share."""

import functools

import jax

from carafe_jax.convolution import convolve

CHANNELS_LAST = "NHWC", "HWIO", "NHWC"

convolve_last = functools.partial(convolve, padding="SAME", dimension_numbers=CHANNELS_LAST)


def convolutions(function, *arguments):
    """How many convolutions are in a function before XLA sees it."""
    return jax.jit(function).lower(*arguments).as_text().count("stablehlo.convolution")


def gradients(call):
    """The gradients of half the sum of squares, by all operands."""

    def run(*operands):
        y, pull = jax.vjp(call, *operands)
        return pull(y)

    return run
