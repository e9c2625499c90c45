"""CARAFE++ layers for Flax NNX; the Linen twins are in :mod:`carafe_jax.linen`."""

from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from carafe_kernels.geometry import Geometry
from carafe_kernels.names import Implementation, Normalizer
from flax import nnx
from jaxtyping import Array, Float

from carafe_jax import _predictor as predictor
from carafe_jax._checks import check_groups, check_normalizer
from carafe_jax._ops import carafe, reassembly_kernels
from carafe_jax.convolution import convolve


class PredictorOptions(TypedDict, total=False):
    """Keywords that :class:`CARAFE` hands on to its :class:`KernelPredictor`."""

    compressed_channels: predictor.CompressedChannels
    encoder_size: int
    encoder_dilation: int
    batch_norm: bool
    axis_name: str | None
    dtype: jax.typing.DTypeLike | None
    param_dtype: jax.typing.DTypeLike
    compressor_init: jax.nn.initializers.Initializer
    encoder_init: jax.nn.initializers.Initializer
    bias_init: jax.nn.initializers.Initializer


class KernelPredictor(nnx.Module):
    """Predicts the logits of the reassembly kernels from the features (section 3.2).

    A 1x1 convolution ``channel_compressor``, optionally BatchNorm and ReLU, and a convolution
    ``content_encoder`` of stride ``down``. For the arguments see :class:`CARAFE`.
    """

    def __init__(
        self,
        in_features: int,
        *,
        up: int = 1,
        down: int = 1,
        kernel_size: int = 5,
        groups: int = 1,
        compressed_channels: predictor.CompressedChannels = "auto",
        encoder_size: int = 3,
        encoder_dilation: int = 1,
        batch_norm: bool = False,
        axis_name: str | None = None,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        compressor_init: jax.nn.initializers.Initializer = predictor.COMPRESSOR_INIT,
        encoder_init: jax.nn.initializers.Initializer = predictor.ENCODER_INIT,
        bias_init: jax.nn.initializers.Initializer = predictor.BIAS_INIT,
        rngs: nnx.Rngs,
    ) -> None:
        spec = predictor.PredictorSpec(
            Geometry(kernel_size, up, down, groups),
            compressed_channels,
            encoder_size,
            encoder_dilation,
        )
        self.in_features = features = in_features
        self.channel_compressor: nnx.Conv | None = nnx.data(None)
        if isinstance(spec.compressed_channels, int):
            features = spec.compressed_channels
            self.channel_compressor = nnx.Conv(
                in_features,
                features,
                (1, 1),
                dtype=dtype,
                param_dtype=param_dtype,
                kernel_init=compressor_init,
                bias_init=bias_init,
                conv_general_dilated=convolve,
                rngs=rngs,
            )
        self.norm: nnx.BatchNorm | None = nnx.data(None)
        if batch_norm:
            self.norm = nnx.BatchNorm(
                features,
                momentum=predictor.BATCH_NORM_MOMENTUM,
                epsilon=predictor.BATCH_NORM_EPSILON,
                axis_name=axis_name,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
        self.content_encoder = nnx.Conv(
            features,
            spec.encoder_features,
            (spec.encoder_size, spec.encoder_size),
            strides=spec.encoder_stride,
            padding=spec.encoder_padding,
            kernel_dilation=spec.encoder_dilation,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=encoder_init,
            bias_init=bias_init,
            conv_general_dilated=convolve,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch cell_rows cell_columns logit_channels"]:
        """Maps features ``[B, H, W, C]`` to logits for :func:`carafe_jax.carafe`."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x must have {self.in_features} channels, got shape {x.shape}")
        features = x if self.channel_compressor is None else self.channel_compressor(x)
        if self.norm is not None:
            features = nnx.relu(self.norm(features, use_running_average=use_running_average))
        return self.content_encoder(features)


class CARAFE(nnx.Module):
    """Rescales a feature map by ``up / down`` with kernels predicted from its content.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = CARAFE(32, up=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 8, 8, 32))).shape
    (1, 16, 16, 32)

    Args:
        in_features: channels of the input, and of the output.
        up: numerator of the scale.
        down: denominator of the scale.
        kernel_size: side of the reassembly kernels, odd; 5 in the paper.
        groups: number of channel groups that get a kernel each; divides ``in_features``.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14).
        implementation: as in :func:`carafe_jax.carafe`.
        rngs: source of the initial parameters.
        compressed_channels: output channels of the 1x1 compressor; ``"auto"`` is the paper's
            64 for upsampling and 16 for downsampling; ``None`` leaves the compressor out.
        encoder_size: side of the content encoder's kernel, odd; ``kernel_size - 2`` is the
            paper's rule (Table 13).
        encoder_dilation: spacing of the encoder's taps.
        batch_norm: BatchNorm and ReLU before the encoder, as in classification backbones
            (section 5.1). ``layer.eval()`` switches it to its running averages.
        axis_name: mapped axis over which BatchNorm gathers its statistics.
        dtype: of the computation; the input is cast to it. By default the predictor computes in
            the common dtype of input and parameters, and the output has the input's dtype.
        param_dtype: of the parameters.
        compressor_init: of the compressor's kernel.
        encoder_init: of the encoder's kernel; near zero, so that training starts near a box
            filter, with ``"sigmoid"`` one of gain ``kernel_size**2 / 2``.
        bias_init: of both biases.

    Raises:
        ValueError: an option is out of range, or ``groups`` does not divide ``in_features``; an
            unknown ``implementation``, when the layer is first called.
    """

    def __init__(
        self,
        in_features: int,
        *,
        up: int = 1,
        down: int = 1,
        kernel_size: int = 5,
        groups: int = 1,
        normalizer: Normalizer = "softmax",
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[PredictorOptions],
    ) -> None:
        self.up = up
        self.down = down
        self.kernel_size = kernel_size
        self.groups = groups
        self.normalizer = normalizer
        self.implementation = implementation
        self.dtype = options.get("dtype")
        self.kernel_predictor = KernelPredictor(
            in_features,
            up=up,
            down=down,
            kernel_size=kernel_size,
            groups=groups,
            rngs=rngs,
            **options,
        )
        check_groups(groups, in_features)
        check_normalizer(normalizer)

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Rescales ``[B, H, W, C]`` to ``[B, ceil(H * up / down), ceil(W * up / down), C]``."""
        if self.dtype is not None:
            x = x.astype(self.dtype)
        logits = self.kernel_predictor(x, use_running_average)
        return carafe(x, logits, **self._reassembly_options(), implementation=self.implementation)

    def reassembly_kernels(
        self,
        x: Float[Array, "batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch out_height out_width weight_channels"]:
        """The kernels that the layer applies to ``x``, ``[B, H', W', groups * k * k]``.

        In training, BatchNorm updates its statistics here as in a call; ``layer.eval()`` first.
        """
        if self.dtype is not None:
            x = x.astype(self.dtype)
        logits = self.kernel_predictor(x, use_running_average)
        return reassembly_kernels(x, logits, **self._reassembly_options())

    def _reassembly_options(self) -> dict[str, Any]:
        names = ("kernel_size", "up", "down", "groups", "normalizer")
        return {name: getattr(self, name) for name in names}
