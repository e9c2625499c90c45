"""CARAFE++ layers for Flax NNX. :mod:`carafe_jax.linen` has the same layers for Linen."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from carafe_kernels.geometry import Geometry, Resize, positive_integer
from carafe_kernels.names import Implementation, Normalizer, Scale
from flax import nnx
from flax.errors import TraceContextError
from jaxtyping import Array, Float

from carafe_jax import _predictor as predictor
from carafe_jax._checks import (
    check_groups,
    check_normalizer,
    check_running_average,
    checked_input,
    checked_offset_features,
)
from carafe_jax._collection import Calls, dropped, reassembly_of
from carafe_jax._ops import carafe, reassembly_kernels
from carafe_jax._resizing import layer_target
from carafe_jax.convolution import convolve
from carafe_jax.sources import Reassembly


class PredictorOptions(TypedDict, total=False):
    """Keyword arguments that :class:`CARAFE` passes to its :class:`KernelPredictor`."""

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

    The predictor is a 1x1 convolution ``channel_compressor``, optionally BatchNorm and ReLU, and a
    convolution ``content_encoder`` of stride ``down``. Its arguments are those of :class:`CARAFE`,
    without ``normalizer``, ``implementation`` and ``offset_features``.
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
        self.in_features = features = positive_integer("in_features", in_features)
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
        x: Float[Array, "*batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "*batch cell_rows cell_columns logit_channels"]:
        """Predicts the logits of :func:`carafe_jax.carafe`.

        Args:
            x: feature map ``[..., H, W, in_features]`` with any number of batch axes.
            use_running_average: whether BatchNorm uses its running averages. By default it does
                after ``layer.eval()``.

        Returns:
            The logits ``[..., ceil(H / down), ceil(W / down), up**2 * groups * kernel_size**2]``.
        """
        x = checked_input(x)
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x must have {self.in_features} channels, got shape {x.shape}")
        features = x if self.channel_compressor is None else self.channel_compressor(x)
        if self.norm is not None:
            # Flax's BatchNorm mixes its float32 statistics with the dtype of the computation.
            with jax.numpy_dtype_promotion("standard"):
                features = self.norm(features, use_running_average=use_running_average)
            features = nnx.relu(features)
        return self.content_encoder(features)


@dataclasses.dataclass(frozen=True)
class _Recorder:
    """Records the calls of one layer."""

    calls: Calls
    name: str

    def record(
        self, layer: "CARAFE", x: jax.Array, kernels: jax.Array, resize: Resize | None
    ) -> None:
        """Records a call, and keeps its kernels in the layer."""
        earlier = layer._collected_kernels.get_value()
        reassembly = reassembly_of(layer, self.name, x, kernels, resize)
        try:
            layer._collected_kernels.set_value((*earlier, reassembly))
        except TraceContextError:
            raise dropped(self.name) from None
        self.calls.record(len(earlier), reassembly)


class OffsetPredictor(nnx.Module):
    """Predicts values to add to logits from the offset of each output in its predicted kernel.

    They are the difference of a network of two layers, ``hidden`` and ``logits``, at the offset and
    at the offset zero. So they are zero where the offset is.

    Args:
        features: width of the hidden layer.
        weight_channels: number of logits of an output, ``groups * kernel_size**2``.
        rngs: random number generators of the initial parameters.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    def __init__(
        self,
        features: int,
        weight_channels: int,
        *,
        rngs: nnx.Rngs,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> None:
        self.hidden = nnx.Linear(4, features, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.logits = nnx.Linear(
            features,
            weight_channels,
            use_bias=False,
            kernel_init=predictor.ENCODER_INIT,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self, offsets: Float[Array, "out_height out_width 4"]
    ) -> Float[Array, "out_height out_width weight_channels"]:
        """Predicts the values for all outputs, ``[H', W', groups * kernel_size**2]``.

        Args:
            offsets: offset in rows and in columns, and the reciprocals of both scales.
        """
        offsets = offsets.astype(self.hidden.dtype or self.hidden.param_dtype)
        at_zero = offsets.at[..., :2].set(0)
        difference = nnx.relu(self.hidden(offsets)) - nnx.relu(self.hidden(at_zero))
        return self.logits(difference)


class CARAFE(nnx.Module):
    """Rescales a feature map by ``up / down`` with kernels predicted from its content.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = CARAFE(32, up=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 8, 8, 32))).shape
    (1, 16, 16, 32)

    A call may give the ``size`` of the result, or a ``scale``, if ``down`` is 1. The parameters are
    the same for all sizes: ``up`` is then only the number of kernels that are predicted for a pixel
    along each axis. A size that is one less than the doubled map, with ``up=2``, crops the doubled
    map; the kernels that such a call keeps for later are those of the whole doubled map. A layer
    with ``down`` above 1 predicts one kernel for each cell. Its parameters fit a layer with
    ``down=1``, which predicts a kernel for each pixel and downsamples with, for example,
    ``scale=Fraction(1, 2)``.

    A mesh may shard the first batch axis of the input. Flax's convolutions merge all batch axes, so
    use ``nnx.vmap`` if a mesh shards another one, and gather sharded channels before the layer.

    Args:
        in_features: number of channels of the input, and of the output.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        kernel_size: side of the reassembly kernels, odd; 5 in the paper.
        groups: number of channel groups, each with kernels of its own; divides ``in_features``.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14).
        implementation: ``"xla"``, ``"mosaic_gpu"`` or ``None``, which chooses one; see
            :func:`carafe_jax.carafe`.
        offset_features: width of the hidden layer of an ``offset_predictor``. It adds values to the
            logits of outputs that lie between two predicted kernels, in calls with a ``size`` or
            ``scale``. They vanish at scales such as ``up`` and ``1 / 2``, where no output does, and
            in a crop. ``None`` leaves it out, as it must if ``down`` is above 1. This predictor is
            not part of the paper.
        rngs: random number generators of the initial parameters.
        compressed_channels: output channels of the 1x1 compressor. ``"auto"`` is 64 for upsampling
            and 16 for downsampling, as in the paper; ``None`` leaves the compressor out.
        encoder_size: side of the kernel of the content encoder, odd. The paper's rule is
            ``kernel_size - 2`` (Table 13).
        encoder_dilation: dilation of the content encoder.
        batch_norm: whether to apply BatchNorm and ReLU before the encoder, as in classification
            backbones (section 5.1). ``layer.eval()`` switches BatchNorm to its running averages.
        axis_name: name of the mapped axis over which BatchNorm averages its statistics, or
            ``None``.
        dtype: dtype of the computation, to which the input is cast, also an input of integers. By
            default the input must be floats, the predictor computes in the common dtype of the
            input and the parameters, and the output has the dtype of the input. Under
            ``jax_numpy_dtype_promotion="strict"``, Flax needs a ``dtype`` here if the input has
            another dtype than the parameters.
        param_dtype: dtype of the parameters.
        compressor_init: initializer of the kernel of the compressor.
        encoder_init: initializer of the kernel of the content encoder. By default its values are
            near zero, so that training starts near a box filter; with ``"sigmoid"``, near a box
            filter of gain ``kernel_size**2 / 2``.
        bias_init: initializer of both biases.

    Raises:
        ValueError: an argument is out of range, or ``groups`` does not divide ``in_features``. An
            unknown ``implementation`` raises it when the layer is first called.
        TypeError: an argument has an unknown name.
    """

    # ``collect_reassemblies`` sets both in its copy of a model.
    _recorder: _Recorder | None = None
    _collected_kernels: nnx.Intermediate

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
        offset_features: int | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[PredictorOptions],
    ) -> None:
        unknown = options.keys() - PredictorOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"CARAFE got unknown arguments {sorted(unknown)}")
        geometry = Geometry(kernel_size, up, down, groups)
        in_features = positive_integer("in_features", in_features)
        check_groups(geometry.groups, in_features)
        check_normalizer(normalizer)
        self.up = geometry.up
        self.down = geometry.down
        self.kernel_size = geometry.kernel_size
        self.groups = geometry.groups
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
        self.offset_features = offset_features
        self.offset_predictor: OffsetPredictor | None = nnx.data(None)
        if offset_features is not None:
            self.offset_predictor = OffsetPredictor(
                checked_offset_features(offset_features, geometry.down),
                geometry.weight_channels,
                dtype=options.get("dtype"),
                param_dtype=options.get("param_dtype", jnp.float32),
                rngs=rngs,
            )

    def __call__(
        self,
        x: Float[Array, "*batch height width channels"],
        use_running_average: bool | None = None,
        size: tuple[int, int] | None = None,
        scale: Scale | None = None,
    ) -> Float[Array, "*batch out_height out_width channels"]:
        """Rescales a map.

        Args:
            x: feature map ``[..., H, W, in_features]`` with any number of batch axes.
            use_running_average: whether BatchNorm uses its running averages. By default it does
                after ``layer.eval()``.
            size: height and width of the result, in place of ``up / down``; see
                :func:`carafe_jax.carafe`.
            scale: scale of both axes, or of rows and of columns, in place of ``up / down``; see
                :func:`carafe_jax.carafe`.

        Returns:
            The rescaled map ``[..., H', W', in_features]``. Its size is ``ceil(H * up / down)`` by
            ``ceil(W * up / down)``, unless ``size`` or ``scale`` is given.

        Raises:
            ValueError: the input, ``size`` or ``scale`` is wrong, both are given, or one is given
                to a layer with ``down`` above 1.
        """
        x, logits = self._predict(x, use_running_average)
        resize, crop = layer_target(self, x, size, scale)
        options = self._reassembly_options(resize)
        if self._recorder is not None:
            self._recorder.record(self, x, reassembly_kernels(x, logits, **options), resize)
        return carafe(x, logits, **options, implementation=self.implementation)[crop]

    def reassembly_kernels(
        self,
        x: Float[Array, "*batch height width channels"],
        use_running_average: bool | None = None,
        size: tuple[int, int] | None = None,
        scale: Scale | None = None,
    ) -> Float[Array, "*batch out_height out_width weight_channels"]:
        """Returns the kernels that the layer applies to ``x``, one per output pixel.

        In training, BatchNorm updates its statistics as it does in a call. To look at kernels, call
        ``layer.eval()`` first.

        Args:
            x: feature map ``[..., H, W, in_features]`` with any number of batch axes.
            use_running_average: whether BatchNorm uses its running averages. By default it does
                after ``layer.eval()``.
            size: height and width of the result, in place of ``up / down``; see
                :func:`carafe_jax.carafe`.
            scale: scale of both axes, or of rows and of columns, in place of ``up / down``; see
                :func:`carafe_jax.carafe`.

        Returns:
            The kernels ``[..., H', W', groups * kernel_size**2]`` with the size of the rescaled
            map, in float32, or in float64 for float64 logits.

        Raises:
            ValueError: the input, ``size`` or ``scale`` is wrong, both are given, or one is given
                to a layer with ``down`` above 1.
        """
        x, logits = self._predict(x, use_running_average)
        resize, crop = layer_target(self, x, size, scale)
        kernels = reassembly_kernels(x, logits, **self._reassembly_options(resize))
        if self._recorder is not None:
            self._recorder.record(self, x, kernels, resize)
        return kernels[crop]

    def _predict(
        self, x: Float[Array, "*batch height width channels"], use_running_average: bool | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns ``x`` in the dtype of the computation, and the logits predicted from it."""
        check_running_average(use_running_average)
        x = checked_input(x, self.dtype)
        # None is not passed on: summaries of a model would list it among the inputs.
        arguments = () if use_running_average is None else (use_running_average,)
        return x, self.kernel_predictor(x, *arguments)

    def _reassembly_options(self, resize: Resize | None) -> dict[str, Any]:
        """The arguments of :func:`carafe_jax.carafe`, but its arrays and implementation."""
        names = ("kernel_size", "up", "down", "groups", "normalizer")
        options = {name: getattr(self, name) for name in names}
        if resize is None:
            return options
        options["scale"] = resize.rows.scale, resize.columns.scale
        if self.offset_predictor is not None:
            offsets = predictor.offsets(resize, self.up)
            if offsets is not None:
                options["offset_logits"] = self.offset_predictor(jnp.asarray(offsets))
        return options


def collect_reassemblies(
    model: nnx.Module, *args: Any, method: str | Callable[..., Any] = "__call__", **kwargs: Any
) -> tuple[Any, tuple[Reassembly, ...]]:
    """Calls a model, and collects the reassemblies of all its :class:`CARAFE` layers.

    Each call of a layer counts, and so does each call of its method
    :meth:`CARAFE.reassembly_kernels`, whose kernels the model then applies itself. Calls of
    :func:`carafe_jax.carafe` and :func:`carafe_jax.reassemble` do not count, and neither do layers
    that are not part of ``model``.

    The predictor of each layer runs once; its logits are normalised once more. Call this function
    inside :func:`jax.jit` or ``nnx.jit`` if the model uses ``nnx.jit``: otherwise each call
    compiles the programs of the model's ``nnx.jit`` anew, and they stay in memory.

    The call is made by a copy of the model, so ``model`` does not change: neither its batch
    statistics nor its random number generators, even in training.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(CARAFE(32, up=2, rngs=rngs), CARAFE(32, up=2, rngs=rngs))
    >>> y, (first, second) = collect_reassemblies(model, jnp.ones((1, 8, 8, 32)))
    >>> first.name, first.kernels.shape, second.name, second.size
    ('layers/0', (1, 16, 16, 25), 'layers/1', (16, 16))

    A lifted transformation inside the model, such as ``nnx.scan`` or ``nnx.vmap``, must map the
    layer, or ``nnx.Intermediate`` in the ``nnx.StateAxes`` of the layer, over the first axis. A
    call of a layer inside it gives one reassembly, whose kernels have the axis of the
    transformation as their first axis. ``nnx.remat`` and ``nnx.jit`` work as they are.

    Args:
        model: any NNX module.
        args: positional arguments of the method.
        method: name of the method to call, or a function whose first argument is the model.
        kwargs: keyword arguments of the method.

    Returns:
        The output of the method, and the reassemblies in the order of the calls. The name of a
        reassembly is the path of its layer, such as ``"neck/upsample_5"``, or ``""`` if the layer
        is the model itself. A layer that the model has under several names has the name that
        ``nnx.iter_modules`` finds first. A layer that is called twice has two reassemblies of the
        same name.

    Raises:
        ValueError: ``method`` is a method of another object, or a transformation inside the model
            drops the kernels or moves their axes.
    """
    if inspect.ismethod(method):
        if method.__self__ is not model:
            raise ValueError(f"method must be a method of the model or its name, got {method!r}")
        method = method.__func__
    copy = nnx.clone(model)
    calls = Calls()
    layers = {}
    for path, layer in nnx.iter_modules(copy):
        if isinstance(layer, CARAFE):
            name = "/".join(map(str, path))
            layers[name] = layer
            layer._recorder = _Recorder(calls, name)
            layer._collected_kernels = nnx.Intermediate(())
    try:
        if isinstance(method, str):
            output = getattr(copy, method)(*args, **kwargs)
        else:
            output = method(copy, *args, **kwargs)
    except ValueError as error:
        # A transformation names the state that it cannot return.
        if "_collected_kernels" not in str(error):
            raise
        raise dropped(", ".join(layers)) from error
    kept = {name: layer._collected_kernels.get_value() for name, layer in layers.items()}
    return output, calls.reassemblies(kept)
