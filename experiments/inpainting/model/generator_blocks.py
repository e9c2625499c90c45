"""What generators consist of: convolutions, plain or partial, with their resampler before them."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.inpainting.model.partial_convolution import Masked, MaskedCARAFE, PartialConv
from experiments.resamplers.convolutions import Deconvolution, PixelShuffle
from experiments.resamplers.downsamplers import downsampling_convolution
from experiments.resamplers.methods import Downsampler, Upsampler
from experiments.resamplers.upsamplers import upsample

FeatureMap = jax.Array | Masked
Activation = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a generator share.

    Attributes:
        axis_name: mapped axis over which BatchNorm gathers its statistics.
        dtype: of the computation.
    """

    axis_name: str | None
    dtype: jax.typing.DTypeLike


class ConvBlock(nn.Module):
    """A resampler or none, a convolution, BatchNorm or none, an activation or none.

    Args:
        features: output channels.
        options: what all blocks share.
        kernel_size: odd side of the convolution's kernel.
        dilation: of that kernel.
        downsampler: halves the map, if given.
        upsampler: doubles the map, if given.
        norm: whether there is a BatchNorm.
        activation: the last step, if given.
    """

    features: int
    options: BlockOptions
    kernel_size: int = 3
    dilation: int = 1
    downsampler: Downsampler | None = None
    upsampler: Upsampler | None = None
    norm: bool = True
    activation: Activation | None = nn.relu

    @nn.compact
    def __call__(self, *maps: FeatureMap, use_running_average: bool) -> FeatureMap:
        """Maps one or more maps of one size, several as if concatenated; see :func:`fit`."""
        # A bias would vanish in the mean that BatchNorm takes away.
        masked = [x for x in maps if isinstance(x, Masked)]
        if masked:
            found = self._partial(*masked)
            return Masked(self._finish(found.features, use_running_average), found.mask)
        plain = [x for x in maps if not isinstance(x, Masked)]
        return self._finish(self._plain(*plain), use_running_average)

    def _partial(self, *maps: Masked) -> Masked:
        convolution = functools.partial(
            PartialConv,
            self.features,
            self.kernel_size,
            dilation=self.dilation,
            use_bias=not self.norm,
            dtype=self.options.dtype,
            name="conv",
        )
        if self.upsampler is not None:
            (x,) = maps
            return convolution()(enlarge(x, self.upsampler, self.options.dtype, name="resample"))
        if self.downsampler == "carafe":
            (x,) = maps
            resampler = MaskedCARAFE(down=2, dtype=self.options.dtype, name="resample")
            return convolution()(resampler(x))
        return convolution(strides=1 if self.downsampler is None else 2)(*maps)

    def _plain(self, *maps: jax.Array) -> jax.Array:
        x = jnp.concatenate(maps, axis=-1)
        # These rescale by the convolution itself; all others before one of stride 1 (section 4.3).
        if self.upsampler == "deconvolution":
            return Deconvolution(self.features, 4, self.options.dtype, name="conv")(x)
        if self.upsampler == "pixel_shuffle":
            return PixelShuffle(self.features, self.options.dtype, name="conv")(x)
        reach = self.dilation * (self.kernel_size // 2)
        convolution = functools.partial(
            nn.Conv,
            self.features,
            (self.kernel_size, self.kernel_size),
            padding=((reach, reach), (reach, reach)),
            kernel_dilation=self.dilation,
            use_bias=not self.norm,
            dtype=self.options.dtype,
            name="conv",
        )
        if self.downsampler is not None:
            return downsampling_convolution(
                x, self.downsampler, convolution, name="resample", dtype=self.options.dtype
            )
        if self.upsampler is not None:
            x = upsample(x, self.upsampler, name="resample", dtype=self.options.dtype)
        return convolution()(x)

    def _finish(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        if self.norm:
            x = nn.BatchNorm(
                use_running_average=use_running_average,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.options.dtype,
                axis_name=self.options.axis_name,
                name="norm",
            )(x)
        return x if self.activation is None else self.activation(x)


def enlarge(
    x: FeatureMap, method: Upsampler, dtype: jax.typing.DTypeLike, *, name: str
) -> FeatureMap:
    """Doubles a map by one of the upsamplers, and its mask too, if it has one.

    The mask of ``"nearest"`` is doubled as the map is, that of ``"carafe"`` by its kernels.
    """
    if not isinstance(x, Masked):
        return upsample(x, method, name=name, dtype=dtype)
    if method == "carafe":
        return MaskedCARAFE(up=2, dtype=dtype, name=name)(x)
    return Masked(*(upsample(array, "nearest", name=name) for array in x))


def fit(x: FeatureMap, like: FeatureMap) -> FeatureMap:
    """Crops a map to the size of another: an odd side was rounded up on the way down."""
    height, width = jax.tree.leaves(like)[0].shape[1:3]
    return jax.tree.map(lambda array: array[:, :height, :width], x)
