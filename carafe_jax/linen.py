"""CARAFE++ layers for Flax Linen. :mod:`carafe_jax.nnx` has the same layers for NNX."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from carafe_kernels.geometry import Geometry, Resize
from carafe_kernels.names import Implementation, Normalizer, Scale
from flax.core import scope as flax_scope
from jaxtyping import Array, Float

from carafe_jax import _predictor as predictor
from carafe_jax._checks import check_running_average, checked_input, checked_offset_features
from carafe_jax._collection import Calls, dropped, reassembly_of
from carafe_jax._ops import carafe, reassembly_kernels
from carafe_jax._resizing import layer_target
from carafe_jax.convolution import convolve
from carafe_jax.sources import Reassembly


class _PredictorOptions(nn.Module, kw_only=True):  # type: ignore[call-arg]
    """Fields that :class:`CARAFE` passes to its :class:`KernelPredictor`."""

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

    The predictor is a 1x1 convolution ``channel_compressor``, optionally BatchNorm and ReLU, and a
    convolution ``content_encoder`` of stride ``down``. Its fields are those of :class:`CARAFE`,
    without ``normalizer``, ``implementation`` and ``offset_features``.
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
        x: Float[Array, "*batch height width channels"],
        use_running_average: bool | None = None,
    ) -> Float[Array, "*batch cell_rows cell_columns logit_channels"]:
        """Predicts the logits of :func:`carafe_jax.carafe`.

        Args:
            x: feature map ``[..., H, W, C]`` with any number of batch axes.
            use_running_average: whether BatchNorm uses its running averages, as in evaluation. Give
                it here or as a field.

        Returns:
            The logits ``[..., ceil(H / down), ceil(W / down), up**2 * groups * kernel_size**2]``.
        """
        x = checked_input(x)
        features = self.channel_compressor(x) if self.compresses else x
        if self.batch_norm:
            use_running_average = nn.merge_param(
                "use_running_average", self.use_running_average, use_running_average
            )
            # Flax's BatchNorm mixes its float32 statistics with the dtype of the computation.
            with jax.numpy_dtype_promotion("standard"):
                features = self.norm(features, use_running_average=use_running_average)
            features = nn.relu(features)
        logits: jax.Array = self.content_encoder(features)
        return logits


class OffsetPredictor(nn.Module, kw_only=True):  # type: ignore[call-arg]
    """Predicts values to add to logits from the offset of each output in its predicted kernel.

    They are the difference of a network of two layers, ``hidden`` and ``logits``, at the offset and
    at the offset zero. So they are zero where the offset is.

    Args:
        features: width of the hidden layer.
        weight_channels: number of logits of an output, ``groups * kernel_size**2``.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    features: int
    weight_channels: int
    dtype: jax.typing.DTypeLike | None = None
    param_dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, offsets: Float[Array, "out_height out_width 4"]
    ) -> Float[Array, "out_height out_width weight_channels"]:
        """Predicts the values for all outputs, ``[H', W', groups * kernel_size**2]``.

        Args:
            offsets: offset in rows and in columns, and the reciprocals of both scales.
        """
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = dense(self.features, name="hidden")
        offsets = offsets.astype(self.dtype or self.param_dtype)
        at_zero = offsets.at[..., :2].set(0)
        difference = nn.relu(hidden(offsets)) - nn.relu(hidden(at_zero))
        logits: jax.Array = dense(
            self.weight_channels,
            use_bias=False,
            kernel_init=predictor.ENCODER_INIT,
            name="logits",
        )(difference)
        return logits


class CARAFE(_PredictorOptions, kw_only=True):  # type: ignore[call-arg]
    """Rescales a feature map by ``up / down`` with kernels predicted from its content.

    >>> import jax, jax.numpy as jnp
    >>> layer = CARAFE(up=2)
    >>> x = jnp.ones((1, 8, 8, 32))
    >>> variables = layer.init(jax.random.key(0), x)
    >>> layer.apply(variables, x).shape
    (1, 16, 16, 32)

    A call may give the ``size`` of the result, or a ``scale``, if ``down`` is 1. The parameters are
    the same for all sizes: ``up`` is then only the number of kernels that are predicted for a pixel
    along each axis. A size that is one less than the doubled map, with ``up=2``, crops the doubled
    map; the kernels that such a call keeps for later are those of the whole doubled map. A layer
    with ``down`` above 1 predicts one kernel for each cell. Its parameters fit a layer with
    ``down=1``, which predicts a kernel for each pixel and downsamples with, for example,
    ``scale=Fraction(1, 2)``.

    In ``nn.remat`` and ``nn.jit`` of a layer, both are static arguments. Give all arguments by
    position, as in ``nn.remat(CARAFE, static_argnums=(2, 3, 4))(up=2)(x, None, (33, 47), None)``.
    ``nn.vmap`` drops keyword arguments without an error, so give all arguments by position there
    too, with ``in_axes=(0, None, None, None)``.

    A mesh may shard the first batch axis of the input. Flax's convolutions merge all batch axes, so
    use ``nn.vmap`` if a mesh shards another one, and gather sharded channels before the layer.

    If the collection ``intermediates`` is mutable, a call sows its reassembly kernels there under
    the name ``reassembly_kernels``. The method :meth:`reassembly_kernels` returns them, and sows
    them in the same way. :func:`collect_reassemblies` collects them from all layers of a model.

    Args:
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        kernel_size: side of the reassembly kernels, odd; 5 in the paper.
        groups: number of channel groups, each with kernels of its own; divides the channels.
        compressed_channels: output channels of the 1x1 compressor. ``"auto"`` is 64 for upsampling
            and 16 for downsampling, as in the paper; ``None`` leaves the compressor out.
        encoder_size: side of the kernel of the content encoder, odd. The paper's rule is
            ``kernel_size - 2`` (Table 13).
        encoder_dilation: dilation of the content encoder.
        batch_norm: whether to apply BatchNorm and ReLU before the encoder, as in classification
            backbones (section 5.1). It adds the collection ``batch_stats``.
        axis_name: name of the mapped axis over which BatchNorm averages its statistics, or
            ``None``.
        use_running_average: whether BatchNorm uses its running averages, as in evaluation. Give it
            here or in the call.
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
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14).
        implementation: ``"xla"``, ``"mosaic_gpu"`` or ``None``, which chooses one; see
            :func:`carafe_jax.carafe`.
        offset_features: width of the hidden layer of an ``offset_predictor``. It adds values to the
            logits of outputs that lie between two predicted kernels, in calls with a ``size`` or
            ``scale``. They vanish at scales such as ``up`` and ``1 / 2``, where no output does, and
            in a crop. ``None`` leaves it out, as it must if ``down`` is above 1. This predictor is
            not part of the paper.

    Raises:
        ValueError: an option or the input is out of range, when the layer is first called.
    """

    normalizer: Normalizer = "softmax"
    implementation: Implementation | None = None
    offset_features: int | None = None

    def setup(self) -> None:
        names = {field.name for field in dataclasses.fields(_PredictorOptions)}
        options = {name: getattr(self, name) for name in names - {"parent", "name"}}
        self.kernel_predictor = KernelPredictor(**options)
        geometry = Geometry(self.kernel_size, self.up, self.down, self.groups)
        if self.offset_features is not None:
            self.offset_predictor = OffsetPredictor(
                features=checked_offset_features(self.offset_features, geometry.down),
                weight_channels=geometry.weight_channels,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
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
            x: feature map ``[..., H, W, C]`` with any number of batch axes.
            use_running_average: whether BatchNorm uses its running averages, as in evaluation. Give
                it here or as a field.
            size: height and width of the result, in place of ``up / down``; see
                :func:`carafe_jax.carafe`.
            scale: scale of both axes, or of rows and of columns, in place of ``up / down``; see
                :func:`carafe_jax.carafe`.

        Returns:
            The rescaled map ``[..., H', W', C]``. Its size is ``ceil(H * up / down)`` by
            ``ceil(W * up / down)``, unless ``size`` or ``scale`` is given.

        Raises:
            ValueError: the input, ``size`` or ``scale`` is wrong, both are given, or one is given
                to a layer with ``down`` above 1.
        """
        x, logits = self._predict(x, use_running_average)
        resize, crop = layer_target(self, x, size, scale)
        options = self._reassembly_options(resize)
        if self.is_mutable_collection("intermediates"):
            self._sow(x, reassembly_kernels(x, logits, **options), resize)
        return carafe(x, logits, **options, implementation=self.implementation)[crop]

    def reassembly_kernels(
        self,
        x: Float[Array, "*batch height width channels"],
        use_running_average: bool | None = None,
        size: tuple[int, int] | None = None,
        scale: Scale | None = None,
    ) -> Float[Array, "*batch out_height out_width weight_channels"]:
        """Returns the kernels that the layer applies to ``x``, one per output pixel.

        Call it by ``layer.apply(variables, x, method="reassembly_kernels")``.

        Args:
            x: feature map ``[..., H, W, C]`` with any number of batch axes.
            use_running_average: whether BatchNorm uses its running averages, as in evaluation. Give
                it here or as a field.
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
        self._sow(x, kernels, resize)
        return kernels[crop]

    def _sow(self, x: jax.Array, kernels: jax.Array | Reassembly, resize: Resize | None) -> None:
        """Sows the kernels for ``x``; ``collect_reassemblies`` replaces them by a reassembly."""
        self.sow("intermediates", "reassembly_kernels", kernels)

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
        if self.offset_features is not None and self.is_initializing():
            self.offset_predictor(jnp.zeros((1, 1, 4)))
        if resize is None:
            return options
        options["scale"] = resize.rows.scale, resize.columns.scale
        if self.offset_features is not None:
            offsets = predictor.offsets(resize, self.up)
            if offsets is not None:
                options["offset_logits"] = self.offset_predictor(jnp.asarray(offsets))
        return options


def collect_reassemblies(
    model: nn.Module, variables: Any, *args: Any, mutable: Any = False, **kwargs: Any
) -> tuple[Any, tuple[Reassembly, ...]]:
    """Applies a model, and collects the reassemblies of all its :class:`CARAFE` layers.

    Each call of a layer counts, and so does each call of its method
    :meth:`CARAFE.reassembly_kernels`, whose kernels the model then applies itself. Calls of
    :func:`carafe_jax.carafe` and :func:`carafe_jax.reassemble` do not count.

    The predictor of each layer runs once; its logits are normalised once more. Call this function
    inside :func:`jax.jit` if the model uses ``nn.jit``: otherwise each call compiles the programs
    of ``nn.jit`` anew, and they stay in memory.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.ones((1, 8, 8, 32))
    >>> model = nn.Sequential([CARAFE(up=2), CARAFE(up=2)])
    >>> variables = model.init(jax.random.key(0), x)
    >>> y, (first, second) = collect_reassemblies(model, variables, x)
    >>> first.name, first.kernels.shape, second.name, second.size
    ('layers_0', (1, 16, 16, 25), 'layers_1', (16, 16))

    A lifted transformation inside the model, such as ``nn.scan`` or ``nn.vmap``, must include the
    collection ``intermediates``, as in ``variable_axes={"params": 0, "intermediates": 0}``. A call
    of a layer inside it gives one reassembly, whose kernels have the axis of the transformation as
    their first axis. ``nn.remat`` and ``nn.map_variables`` work as they are.

    Args:
        model: any Linen module.
        variables: variables of the model.
        args: positional arguments of the model.
        mutable: collections that the model may change, as in ``model.apply``.
        kwargs: other keyword arguments of ``model.apply``, such as ``method``, ``rngs`` and the
            keyword arguments of the model.

    Returns:
        The result of ``model.apply``, and the reassemblies in the order of the calls. If
        ``mutable`` is given, the result of ``model.apply`` is the pair of the output and the
        changed collections. The name of a reassembly is the path of its layer, such as
        ``"neck/upsample_5"``, or ``""`` if the layer is the model itself. A layer that is called
        twice has two reassemblies of the same name.

    Raises:
        ValueError: a transformation inside the model drops the kernels, moves their axes, or reuses
            a compiled program of another layer, as ``nn.jit`` may do.
    """
    calls = Calls()

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if not isinstance(layer, CARAFE):
            return call(*args, **kwargs)
        name = "/".join(layer.path)
        sown = layer.is_mutable_collection("intermediates")
        if context.method_name == "_predict" and not (sown or layer.is_initializing()):
            raise dropped(name)
        if context.method_name == "_sow" and sown:
            x, kernels, resize = args
            reassembly = reassembly_of(layer, name, x, kernels, resize)
            earlier = layer.get_variable("intermediates", "reassembly_kernels", ())
            calls.record(len(earlier), reassembly)
            args = x, reassembly, resize
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        output, state = model.apply(variables, *args, mutable=_collected(mutable), **kwargs)
    reassemblies = calls.reassemblies(_sown_kernels(state.get("intermediates", {})))
    if mutable is False:
        return output, reassemblies
    changed = {
        name: jax.tree.map(_kernels_of, variables, is_leaf=_is_reassembly)
        for name, variables in state.items()
        if flax_scope.in_filter(mutable, name)
    }
    return (output, changed), reassemblies


_numbers = itertools.count()


def _collected(mutable: Any) -> Any:
    """The collections ``mutable``, and ``intermediates``, as a filter that is never the same.

    ``nn.jit`` traces a layer again for a new filter. Otherwise it could reuse a program that was
    traced earlier, and the calls of the layer would not be recorded.
    """
    collections = flax_scope.union_filters(mutable, "intermediates")
    unused = f"reassemblies {next(_numbers)}"
    if flax_scope.in_filter(collections, unused):
        return flax_scope.subtract_filters(collections, unused)
    return flax_scope.union_filters(collections, unused)


def _sown_kernels(intermediates: Mapping[str, Any], path: str = "") -> dict[str, Sequence[Any]]:
    """What is sown as ``reassembly_kernels``, by the path of the layer."""
    found: dict[str, Sequence[Any]] = {}
    for name, value in intermediates.items():
        if isinstance(value, Mapping):
            found |= _sown_kernels(value, f"{path}/{name}" if path else name)
        elif name == "reassembly_kernels" and isinstance(value, Sequence):
            found[path] = value
    return found


def _is_reassembly(value: Any) -> bool:
    return isinstance(value, Reassembly)


def _kernels_of(value: Any) -> Any:
    return value.kernels if isinstance(value, Reassembly) else value
