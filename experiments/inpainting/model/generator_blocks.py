"""Blocks of the generators: plain or partial convolutions, each after an optional resampler."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.inpainting.model.partial_convolution import Masked, MaskedCARAFE, PartialConv
from experiments.resamplers.convolutions import Deconvolution, PixelShuffle
from experiments.resamplers.downsamplers import downsampling_convolution
from experiments.resamplers.methods import GUIDED, Downsampler, Upsampler
from experiments.resamplers.upsamplers import upsample

FeatureMap = jax.Array | Masked
Activation = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """Options that all blocks of a generator share.

    Attributes:
        axis_name: name of the mapped axis over which BatchNorm computes its statistics, if any.
        dtype: dtype of the computation.
    """

    axis_name: str | None
    dtype: jax.typing.DTypeLike


class ConvBlock(nn.Module):
    """A convolution, with an optional resampler before it, and BatchNorm and activation after it.

    Args:
        features: number of output channels.
        options: options that all blocks share.
        kernel_size: side of the convolution's kernel, odd.
        dilation: dilation of the convolution's kernel.
        downsampler: downsampler that halves the map, or None.
        upsampler: upsampler that doubles the map, or None.
        norm: whether there is a BatchNorm.
        activation: activation function, or None.
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
    def __call__(
        self, *maps: FeatureMap, use_running_average: bool, guide: FeatureMap | None = None
    ) -> FeatureMap:
        """Applies the block to the concatenation of one or more maps of one size.

        See :func:`fit` for maps whose sizes differ.

        Args:
            maps: maps of one size.
            use_running_average: whether BatchNorm uses its running averages.
            guide: map of the size of the result, for upsamplers that read one.
        """
        masked = [x for x in maps if isinstance(x, Masked)]
        if masked:
            found = self._partial(*masked)
            return Masked(self._finish(found.features, use_running_average), found.mask)
        plain = [x for x in maps if not isinstance(x, Masked)]
        return self._finish(self._plain(*plain, guide=guide), use_running_average)

    def _partial(self, *maps: Masked) -> Masked:
        convolution = functools.partial(
            PartialConv,
            self.features,
            self.kernel_size,
            dilation=self.dilation,
            use_bias=not self.norm,  # BatchNorm would subtract it
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

    def _plain(self, *maps: jax.Array, guide: FeatureMap | None) -> jax.Array:
        x = jnp.concatenate(maps, axis=-1)
        # These two upsample in the convolution itself. All other resamplers precede a convolution
        # of stride 1 (section 4.3).
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
            use_bias=not self.norm,  # BatchNorm would subtract it
            dtype=self.options.dtype,
            name="conv",
        )
        if self.downsampler is not None:
            return downsampling_convolution(
                x, self.downsampler, convolution, name="resample", dtype=self.options.dtype
            )
        if self.upsampler is not None:
            x = _enlarge_plain(x, self.upsampler, self.options.dtype, name="resample", guide=guide)
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
    x: FeatureMap,
    method: Upsampler,
    dtype: jax.typing.DTypeLike,
    *,
    name: str,
    guide: FeatureMap | None = None,
) -> FeatureMap:
    """Doubles a map with an upsampler, and its mask, if it has one.

    ``"nearest"`` upsamples the mask in the same way as the map. ``"carafe"`` upsamples the mask
    with the map's kernels. An upsampler that reads a guide upsamples to the size of the guide.
    """
    if not isinstance(x, Masked):
        return _enlarge_plain(x, method, dtype, name=name, guide=guide)
    if method == "carafe":
        return MaskedCARAFE(up=2, dtype=dtype, name=name)(x)
    return Masked(*(upsample(array, "nearest", name=name) for array in x))


def _enlarge_plain(
    x: jax.Array,
    method: Upsampler,
    dtype: jax.typing.DTypeLike,
    *,
    name: str,
    guide: FeatureMap | None,
) -> jax.Array:
    if method not in GUIDED or not isinstance(guide, jax.Array):
        return upsample(x, method, name=name, dtype=dtype)
    size = (guide.shape[1], guide.shape[2])
    return upsample(x, method, name=name, dtype=dtype, size=size, guide=guide)


def fit(x: FeatureMap, like: FeatureMap) -> FeatureMap:
    """Crops a map to the size of ``like``: downsampling has rounded up odd sides."""
    height, width = jax.tree.leaves(like)[0].shape[1:3]
    return jax.tree.map(lambda array: array[:, :height, :width], x)
