"""Models in Linen and NNX with the same layers, whose reassemblies are collected."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, X

OPTIONS = {
    "kernel_size": 3,
    "compressed_channels": None,
    "encoder_init": jax.nn.initializers.normal(0.3),
}


class LinenNeck(nn.Module):
    """Calls layers in another order than the order of their names."""

    batch_norm: bool = False

    def setup(self):
        options = {**OPTIONS, "batch_norm": self.batch_norm}
        self.upsample_5 = carafe_jax.linen.CARAFE(up=2, **options)
        self.upsample_4 = carafe_jax.linen.CARAFE(down=2, groups=2, **options)

    def __call__(self, x, use_running_average=None):
        x = self.upsample_5(x, use_running_average=use_running_average)
        return self.upsample_4(x=x, use_running_average=use_running_average)

    def twice(self, x):
        return self.upsample_4(self.upsample_5(self.upsample_4(x)))

    def kernels(self, x):
        """Applies kernels itself, and once more by the function."""
        kernels = self.upsample_5.reassembly_kernels(x)
        y = carafe_jax.reassemble(x, kernels, kernel_size=3, up=2)
        logits = jnp.zeros((*x.shape[:-1], 9))
        return y + carafe_jax.reassemble(
            carafe_jax.carafe(x, logits, kernel_size=3), kernels, kernel_size=3, up=2
        )


class LinenModel(nn.Module):
    batch_norm: bool = False

    def setup(self):
        self.neck = LinenNeck(self.batch_norm)

    def __call__(self, x, use_running_average=None):
        return self.neck(x, use_running_average)

    def twice(self, x):
        return self.neck.twice(x)

    def kernels(self, x):
        return self.neck.kernels(x)

    def remat(self, x):
        return nn.remat(LinenNeck.twice)(self.neck, x)

    def jit(self, x):
        return nn.jit(LinenNeck.twice)(self.neck, x)


class NNXNeck(nnx.Module):
    def __init__(self, batch_norm, rngs):
        options = {**OPTIONS, "batch_norm": batch_norm, "rngs": rngs}
        self.upsample_5 = carafe_jax.nnx.CARAFE(CHANNELS, up=2, **options)
        self.upsample_4 = carafe_jax.nnx.CARAFE(CHANNELS, down=2, groups=2, **options)

    __call__ = LinenNeck.__call__
    twice = LinenNeck.twice
    kernels = LinenNeck.kernels


class NNXModel(nnx.Module):
    def __init__(self, batch_norm=False, rngs=None):
        self.neck = NNXNeck(batch_norm, rngs or nnx.Rngs(0))

    def __call__(self, x, use_running_average=None):
        return self.neck(x, use_running_average)

    def twice(self, x):
        return self.neck.twice(x)

    def kernels(self, x):
        return self.neck.kernels(x)

    def remat(self, x):
        return nnx.remat(NNXNeck.twice)(self.neck, x)

    def jit(self, x):
        return nnx.jit(NNXNeck.twice)(self.neck, x)


class LinenPair:
    """A Linen model with variables, with the interface of :class:`NNXPair`."""

    def __init__(self):
        self.model = LinenModel()
        self.variables = jax.jit(self.model.init)(jax.random.key(0), X)

    def call(self, x, **options):
        return self.model.apply(self.variables, x, **options)

    def collect(self, x, **options):
        return carafe_jax.linen.collect_reassemblies(self.model, self.variables, x, **options)


class NNXPair:
    def __init__(self):
        self.model = NNXModel()

    def call(self, x, method="__call__"):
        return getattr(self.model, method)(x)

    def collect(self, x, **options):
        return carafe_jax.nnx.collect_reassemblies(self.model, x, **options)


def names(reassemblies):
    return [each.name for each in reassemblies]


def assert_same(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-6)
