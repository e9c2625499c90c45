"""ResNet (reference 13) with a configurable downsampler."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from carafe_jax.linen import CARAFE
from experiments.models.deformable_convolution import ModulatedDeformableConv
from experiments.models.resnet_config import BLOCKS, ResNetConfig
from experiments.resamplers.downsamplers import MakeModule, downsampling_convolution, pool
from experiments.resamplers.lip import ImportanceHead, ImportanceTrunk

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class _Block(nn.Module):
    """Fields and layers that both kinds of residual blocks share.

    Args:
        config: config of the network.
        features: channels of the 3x3 convolutions.
        downsamples: whether the block halves the map.
        dilations: two dilations, of the 3x3 convolution that has the stride in the first block of a
            stage, and of the 3x3 convolution after it. They differ in the first block of a stage
            that dilates instead of downsampling.
        train: whether BatchNorm uses the statistics of the batch.
        dtype: dtype of the computation.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
        deformable: whether the 3x3 convolution of a bottleneck is a modulated deformable one,
            unless it follows a pool.
    """

    config: ResNetConfig
    features: int
    downsamples: bool
    dilations: tuple[int, int]
    train: bool
    dtype: jax.typing.DTypeLike | None
    axis_name: str | None
    deformable: bool = False

    def conv(self, features: int, size: int, name: str, dilation: int = 1) -> MakeModule:
        return functools.partial(
            nn.Conv,
            features,
            (size, size),
            # Never "SAME", which is not centred for a stride and an even size.
            padding=dilation * (size // 2),
            kernel_dilation=dilation,
            use_bias=False,
            kernel_init=_HE_NORMAL,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name=name,
        )

    def norm(self, name: str, **options: Any) -> nn.Module:
        make = _batch_norm(self, self.train)
        return make(dtype=self.dtype, name=name, **options)

    def downsampling(self, x: jax.Array, convolution: MakeModule, name: str) -> jax.Array:
        """Applies a convolution, which halves the map if the block downsamples."""
        if not self.downsamples:
            return convolution(strides=1)(x)
        carafe = _carafe(self, self.train)
        return downsampling_convolution(
            x, self.config.downsampler, convolution, name=name, carafe=carafe, dtype=self.dtype
        )


class BasicBlock(_Block):
    """Two 3x3 convolutions, the first of which downsamples, and a shortcut."""

    expansion = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', features]``, of half the size or the same."""
        first, second = self.dilations
        shortcut = x
        if self.downsamples or x.shape[-1] != self.features:
            convolution = self.conv(self.features, 1, "downsample_conv")
            shortcut = self.downsampling(x, convolution, "downsample_resample")
            shortcut = self.norm("downsample_bn")(shortcut)
        y = self.downsampling(x, self.conv(self.features, 3, "conv1", first), "resample")
        y = nn.relu(self.norm("bn1")(y))
        y = self.conv(self.features, 3, "conv2", second)()(y)
        y = self.norm("bn2", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + shortcut)


class Bottleneck(_Block):
    """Convolutions of 1x1, 3x3 and 1x1, the second of which downsamples, and a shortcut.

    With ``stride_in_1x1`` the first downsamples.

    With LIP one trunk on the input of the block serves both downsampling sites, and a 1x1
    convolution replaces the 3x3 convolution, as in LIP-ResNet.
    """

    expansion = 4

    def spatial(self) -> MakeModule:
        """The 3x3 convolution, to be made with ``strides``."""
        dilation = self.dilations[0]
        pools = self.downsamples and self.config.downsampler != "strided"
        if not self.deformable or pools:
            return self.conv(self.features, 3, "conv2", dilation)
        return functools.partial(
            ModulatedDeformableConv,
            self.features,
            padding=dilation,
            dilation=dilation,
            deformable_groups=self.config.deformable_groups,
            dtype=self.dtype,
            name="conv2",
        )

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', 4 * features]``, of half the size or the same."""
        out_channels = self.expansion * self.features
        convolution = self.conv(out_channels, 1, "downsample_conv")
        stride_first = self.downsamples and self.config.stride_in_1x1
        y = self.conv(self.features, 1, "conv1")(strides=2 if stride_first else 1)(x)
        y = nn.relu(self.norm("bn1")(y))
        shortcut = x
        if self.downsamples and self.config.downsampler == "lip":
            trunk = ImportanceTrunk(dtype=self.dtype, name="resample_trunk")(x)
            y = ImportanceHead(dtype=self.dtype, name="resample")(y, trunk)
            y = self.conv(self.features, 1, "conv2")()(y)
            pooled = ImportanceHead(dtype=self.dtype, name="downsample_resample")(x, trunk)
            shortcut = self.norm("downsample_bn")(convolution()(pooled))
        else:
            spatial = self.spatial()
            y = spatial()(y) if stride_first else self.downsampling(y, spatial, "resample")
            if self.downsamples or x.shape[-1] != out_channels:
                shortcut = self.downsampling(x, convolution, "downsample_resample")
                shortcut = self.norm("downsample_bn")(shortcut)
        y = nn.relu(self.norm("bn2")(y))
        y = self.conv(out_channels, 1, "conv3")()(y)
        y = self.norm("bn3", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """Residual network with a stride on the 3x3 convolution of a bottleneck ("V1.5").

    With ``stride_in_1x1`` the stride is on the first 1x1 convolution instead.

    Submodules have torchvision's names, with ``layer1_0/downsample_conv`` for
    ``layer1.0.downsample.0`` and ``downsample_bn`` for ``.1``. Convolutions have no bias and are
    initialised by He et al. for their fan-out; the scale of the last normalisation of each block
    starts at zero, and the classifier at N(0, 0.01) (Goyal et al., 2017). The running variance is
    biased, as in Flax; in torchvision it is unbiased.

    A stem of three 3x3 convolutions has ``conv1``, ``bn1`` to ``conv3``, ``bn3``, the names of the
    official implementation of UperNet. Its first convolution has the stride, and a ReLU follows
    each normalisation. Without a classifier ResNet-50 has 23,508,032 parameters with the stem
    ``"conv7"``, 23,631,808 with ``"deep"`` and 23,527,264 with ``"v1c"``.

    Downsampling has seven sites (section 4.1): ``pool`` in the stem (Res-1), instead of max
    pooling; and in the first block of Res-3, Res-4 and Res-5 ``resample`` before the 3x3
    convolution and ``downsample_resample`` before the 1x1 convolution of the shortcut; both
    convolutions lose their stride. In basic blocks, the first 3x3 convolution is this 3x3
    convolution. ``"strided"`` is the standard network, including max pooling in the stem.

    Parameters that downsamplers add, where ``C`` is the number of channels at a site: for ResNet-50
    64 in the stem, 128 and 256 in Res-3, 256 and 512 in Res-4, 512 and 1024 in Res-5, 2752 in all:

    - ``"max_pool"``, ``"avg_pool"``: none. ``"dpp"``: ``2 * C``, so 5,504.
    - ``"carafe"``: a predictor with BatchNorm and ReLU (section 5.1): a compressor
      ``16 * C + 16``, BatchNorm ``2 * 16`` and an encoder ``9 * 16 * 25 + 25``, so
      ``16 * 2752 + 7 * 3673 = 69,743``. With the stem ``"deep"`` the site in the stem has 128
      channels, and the sum is ``16 * 2816 + 7 * 3673 = 70,767``.
    - ``"lip"``, as in LIP-ResNet: in the stem a 3x3 convolution and its normalisation,
      ``9 * 64**2 + 2 * 64``; in a first bottleneck, which has ``2 * F`` channels at its input and
      ``F`` in its 3x3 convolution, a trunk ``128 * 2 * F + 9 * 128**2 + 4 * 128``, two heads
      ``130 * (F + 2 * F)``, and ``-8 * F**2`` as the 3x3 becomes a 1x1. With F of 128, 256 and
      512 this is -1,692,800 in all. LIP does not define a basic block: there, the simplified
      network of the stem, ``9 * C**2 + 2 * C``, is used at every site.

    In a deformable stage (``deformable_stages``) the 3x3 convolution ``conv2`` of each bottleneck
    is a modulated deformable convolution (DCNv2). A first block with a downsampler other than
    ``"strided"`` keeps the plain 3x3 convolution after it (section 5.2), and LIP's 1x1. The
    convolution ``conv2/conv_offset``, which predicts offsets and masks, starts at zero, so that
    ``conv2`` first gives half of the plain convolution, because all masks are 0.5. In a stage of
    width ``F`` it has ``9 * F * 27 * G + 27 * G`` parameters for ``G`` deformable groups. With
    one group, all ``conv_offset`` together have this many parameters in ResNet-50 and ResNet-101:

    =================================  =======  =========
    deformable stages                       50        101
    =================================  =======  =========
    Res-3, Res-4, Res-5 ("c3-c5")      871,263  1,929,258
    the same, with a downsampler [1]_  653,454  1,711,449
    Res-2, Res-3, Res-4                544,671  1,602,666
    =================================  =======  =========

    .. [1] Other than ``"strided"``, and beside the parameters of the downsampler.

    Args:
        config: sizes and choices of the network.
        num_classes: number of outputs of the classifier ``fc``; ``None`` for a backbone without
            classifier.
        dtype: dtype of the computation, float32 or bfloat16; the default is the common dtype of
            input and parameters. Parameters, statistics and logits are float32.
        axis_name: name of the mapped axis over which ``"sync_batch"`` averages statistics.
        frozen_stages: number of frozen stages, 0 to 4. 0: everything is trained. 1: stem and Res-2
            are frozen. 2: Res-3 too. 3: Res-4 too. 4: Res-5 too. A frozen stage has no gradient,
            and its normalisation keeps the running averages.

    Raises:
        ValueError: ``norm`` is ``"sync_batch"`` and there is no ``axis_name``, logits are requested
            from a network without classes, or ``frozen_stages`` is out of range.
    """

    config: ResNetConfig
    num_classes: int | None
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None
    frozen_stages: int = 0

    def setup(self) -> None:
        if self.num_classes is not None:
            self.fc = nn.Dense(
                self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32
            )

    def __call__(
        self, x: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch num_classes"]:
        """Maps images to logits ``[B, num_classes]`` in float32.

        Args:
            x: normalised images ``[B, H, W, 3]``, of any size; see
                :func:`experiments.models.input_normalization.normalize`.
            train: whether BatchNorm uses the statistics of the batch and updates the running
                averages in the collection ``batch_stats``.
        """
        if self.num_classes is None:
            raise ValueError("num_classes must be an integer for logits, got None; see features()")
        c5 = self.features(x, train)[-1]
        return self.fc(c5.mean(axis=(-3, -2), dtype=jnp.float32))

    @nn.compact
    def features(
        self, x: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[Float[Array, "batch rows columns channels"], ...]:
        """Maps images to C2, C3, C4 and C5, the outputs of Res-2 to Res-5.

        Args:
            x: normalised images ``[B, H, W, 3]``, of any size; see
                :func:`experiments.models.input_normalization.normalize`.
            train: whether BatchNorm uses the statistics of the batch and updates the running
                averages in the collection ``batch_stats``.

        Returns:
            Four maps ``[B, ceil(H / s), ceil(W / s), C]`` in the dtype of the computation, with
            strides ``s`` of 4, 8, 16 and 32, or ``output_stride`` if that is smaller.
        """
        config = self.config
        if config.norm == "sync_batch" and self.axis_name is None:
            raise ValueError("axis_name must name a mapped axis for norm 'sync_batch', got None")
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages must be in 0..4, got {self.frozen_stages}")
        x = self._stem(x, train and not self.frozen_stages)
        block = BasicBlock if config.depth < 50 else Bottleneck
        maps = []
        dilation, stride = 1, 4
        for stage, blocks in enumerate(BLOCKS[config.depth]):
            entry_dilation = dilation
            downsamples = stage > 0 and stride < config.output_stride
            if downsamples:
                stride *= 2
            elif stage > 0:
                dilation *= 2
            for index in range(blocks):
                first = index == 0
                x = block(
                    config,
                    config.width * 2**stage,
                    downsamples=first and downsamples,
                    dilations=(entry_dilation if first else dilation, dilation),
                    train=train and stage >= self.frozen_stages,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    deformable=config.deformable_stages[stage],
                    name=f"layer{stage + 1}_{index}",
                )(x)
            if stage < self.frozen_stages:
                x = jax.lax.stop_gradient(x)  # after each stage, because all maps are returned
            maps.append(x)
        return tuple(maps)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        config = self.config
        norm = _batch_norm(self, train)
        for index, (features, size) in enumerate(_stem_convolutions(config), 1):
            convolution = nn.Conv(
                features,
                (size, size),
                strides=2 if index == 1 else 1,
                padding=size // 2,
                use_bias=False,
                kernel_init=_HE_NORMAL,
                dtype=self.dtype,
                conv_general_dilated=convolve,
                name=f"conv{index}",
            )
            x = nn.relu(norm(dtype=self.dtype, name=f"bn{index}")(convolution(x)))
        method = "max_pool" if config.downsampler == "strided" else config.downsampler
        carafe = _carafe(self, train)
        return pool(x, method, name="pool", carafe=carafe, dtype=self.dtype)


def _stem_convolutions(config: ResNetConfig) -> list[tuple[int, int]]:
    """Returns features and kernel size of each convolution of the stem."""
    width = config.width
    if config.stem == "conv7":
        return [(width, 7)]
    if config.stem == "deep":
        return [(width, 3), (width, 3), (2 * width, 3)]
    return [(width // 2, 3), (width // 2, 3), (width, 3)]


def is_frozen(path: Sequence[str], frozen_stages: int) -> bool:
    """Whether a parameter belongs to a frozen stage of a :class:`ResNet`.

    Args:
        path: path of the parameter in the tree of the network.
        frozen_stages: number of frozen stages of the network.
    """
    name = path[0]
    if name == "fc" or not frozen_stages:
        return False
    return not name.startswith("layer") or int(name[len("layer")]) <= frozen_stages


def _batch_norm(parent: "_Block | ResNet", train: bool) -> MakeModule:
    return _normalizing(
        nn.BatchNorm, parent, train, momentum=0.9, epsilon=parent.config.norm_epsilon
    )


def _carafe(parent: "_Block | ResNet", train: bool) -> MakeModule:
    channels = parent.config.compressed_channels
    return _normalizing(
        CARAFE, parent, train, down=2, compressed_channels=channels, batch_norm=True
    )


def _normalizing(
    module: MakeModule, parent: "_Block | ResNet", train: bool, **options: Any
) -> MakeModule:
    """Makes a module that is, or contains, a BatchNorm, according to ``norm`` of the config."""
    norm = parent.config.norm
    if norm == "frozen":
        # Without `init` there would be no parameters, and with it only new ones.
        module = nn.map_variables(module, "params", _stop_at_norms, init=parent.is_initializing())
    return functools.partial(
        module,
        use_running_average=norm == "frozen" or not train,
        axis_name=parent.axis_name if norm == "sync_batch" else None,
        **options,
    )


def _stop_at_norms(params: Mapping[str, Any]) -> Any:
    """Stops the gradients of the scales and biases of normalisation layers."""
    if "scale" in params:  # only normalisation layers have a scale here
        return jax.lax.stop_gradient(params)
    return {
        name: _stop_at_norms(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
    }
