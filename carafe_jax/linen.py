"""CARAFE++ layers for Flax Linen; the NNX twins are in :mod:`carafe_jax.nnx`."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from carafe_kernels.geometry import Geometry
from carafe_kernels.names import Implementation, Normalizer
from jaxtyping import Array, Float

from carafe_jax import _predictor as predictor
from carafe_jax._ops import carafe, reassembly_kernels
from carafe_jax.convolution import convolve


class _PredictorOptions(nn.Module, kw_only=True):  # type: ignore[call-arg]
    """Fields that :class:`CARAFE` hands on to its :class:`KernelPredictor`."""

    up: int = 1
    down: int = 1
    kernel_size: int = 5
    groups: int = 1
    compressed_channels: predictor.CompressedChannels = "auto"
    encoder_size: int = 3
    encoder_dilation: int = 1
    batch_norm: bool = False
    axis_name: str | None = None
    use_running_average: bool | None = None
    dtype: jax.typing.DTypeLike | None = None
    param_dtype: jax.typing.DTypeLike = jnp.float32
    compressor_init: jax.nn.initializers.Initializer = predictor.COMPRESSOR_INIT
    encoder_init: jax.nn.initializers.Initializer = predictor.ENCODER_INIT
    bias_init: jax.nn.initializers.Initializer = predictor.BIAS_INIT


class KernelPredictor(_PredictorOptions, kw_only=True):  # type: ignore[call-arg]
    """Predicts the logits of the reassembly kernels from the features (section 3.2).

    A 1x1 convolution ``channel_compressor``, optionally BatchNorm and ReLU, and a convolution
    ``content_encoder`` of stride ``down``. For the fields see :class:`CARAFE`.
    """

    def setup(self) -> None:
        spec = predictor.PredictorSpec(
            Geometry(self.kernel_size, self.up, self.down, self.groups),
            self.compressed_channels,
            self.encoder_size,
            self.encoder_dilation,
        )
        if isinstance(spec.compressed_channels, int):
            self.channel_compressor = nn.Conv(
                spec.compressed_channels,
                (1, 1),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=self.compressor_init,
                bias_init=self.bias_init,
                conv_general_dilated=convolve,
            )
            self.compresses = True
        else:
            self.compresses = False
        if self.batch_norm:
            self.norm = nn.BatchNorm(
                momentum=predictor.BATCH_NORM_MOMENTUM,
                epsilon=predictor.BATCH_NORM_EPSILON,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
        self.content_encoder = nn.Conv(
            spec.encoder_features,
            (spec.encoder_size, spec.encoder_size),
            strides=spec.encoder_stride,
            padding=spec.encoder_padding,
            kernel_dilation=spec.encoder_dilation,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.encoder_init,
            bias_init=self.bias_init,
            conv_general_dilated=convolve,
        )

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch cell_rows cell_columns logit_channels"]:
        """Maps features ``[B, H, W, C]`` to logits for :func:`carafe_jax.carafe`."""
        features = self.channel_compressor(x) if self.compresses else x
        if self.batch_norm:
            use_running_average = nn.merge_param(
                "use_running_average", self.use_running_average, use_running_average
            )
            features = nn.relu(self.norm(features, use_running_average=use_running_average))
        logits: jax.Array = self.content_encoder(features)
        return logits


class CARAFE(_PredictorOptions, kw_only=True):  # type: ignore[call-arg]
    """Rescales a feature map by ``up / down`` with kernels predicted from its content.

    >>> import jax, jax.numpy as jnp
    >>> layer = CARAFE(up=2)
    >>> x = jnp.ones((1, 8, 8, 32))
    >>> variables = layer.init(jax.random.key(0), x)
    >>> layer.apply(variables, x).shape
    (1, 16, 16, 32)

    The kernels it used are sown as ``reassembly_kernels`` into ``intermediates``, if that
    collection is mutable; :meth:`reassembly_kernels` returns them too.

    Args:
        up: numerator of the scale.
        down: denominator of the scale.
        kernel_size: side of the reassembly kernels, odd; 5 in the paper.
        groups: number of channel groups that get a kernel each; divides the channels.
        compressed_channels: output channels of the 1x1 compressor; ``"auto"`` is the paper's
            64 for upsampling and 16 for downsampling; ``None`` leaves the compressor out.
        encoder_size: side of the content encoder's kernel, odd; ``kernel_size - 2`` is the
            paper's rule (Table 13).
        encoder_dilation: spacing of the encoder's taps.
        batch_norm: BatchNorm and ReLU before the encoder, as in classification backbones
            (section 5.1). Adds the collection ``batch_stats``.
        axis_name: mapped axis over which BatchNorm gathers its statistics.
        use_running_average: for BatchNorm, here or at call time; ``True`` in evaluation.
        dtype: of the computation; the input is cast to it. By default the predictor computes in
            the common dtype of input and parameters, and the output has the input's dtype.
        param_dtype: of the parameters.
        compressor_init: of the compressor's kernel.
        encoder_init: of the encoder's kernel; near zero, so that training starts near a box
            filter, with ``"sigmoid"`` one of gain ``kernel_size**2 / 2``.
        bias_init: of both biases.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14).
        implementation: as in :func:`carafe_jax.carafe`.

    Raises:
        ValueError: an option or the input is out of range, when the layer is first called.
    """

    normalizer: Normalizer = "softmax"
    implementation: Implementation | None = None

    def setup(self) -> None:
        names = {field.name for field in dataclasses.fields(_PredictorOptions)}
        options = {name: getattr(self, name) for name in names - {"parent", "name"}}
        self.kernel_predictor = KernelPredictor(**options)

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Rescales ``[B, H, W, C]`` to ``[B, ceil(H * up / down), ceil(W * up / down), C]``."""
        if self.dtype is not None:
            x = x.astype(self.dtype)
        logits = self.kernel_predictor(x, use_running_average)
        options = self._reassembly_options()
        if self.is_mutable_collection("intermediates"):
            kernels = reassembly_kernels(x, logits, **options)
            self.sow("intermediates", "reassembly_kernels", kernels)
        return carafe(x, logits, **options, implementation=self.implementation)

    def reassembly_kernels(
        self,
        x: Float[Array, "batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "batch out_height out_width weight_channels"]:
        """The kernels that the layer applies to ``x``, ``[B, H', W', groups * k * k]``.

        Call it by ``layer.apply(variables, x, method="reassembly_kernels")``.
        """
        if self.dtype is not None:
            x = x.astype(self.dtype)
        logits = self.kernel_predictor(x, use_running_average)
        return reassembly_kernels(x, logits, **self._reassembly_options())

    def _reassembly_options(self) -> dict[str, Any]:
        names = ("kernel_size", "up", "down", "groups", "normalizer")
        return {name: getattr(self, name) for name in names}
