"""Feature pyramid network (FPN, Lin et al., 2017) with a configurable upsampler."""

import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.models.fpn_config import FPNConfig
from experiments.resamplers.upsamplers import upsample

_XAVIER_UNIFORM = nn.initializers.xavier_uniform()


class FPN(nn.Module):
    """Pyramid of maps with equal channels, each with the semantics of the coarser levels.

    Each input map passes a 1x1 convolution ``lateral_{i}``. From the coarsest level down, the sum
    at a level is doubled by ``upsample_{i}`` and added to the lateral of the next finer level
    (Fig. 5). A 3x3 convolution ``output_{i}`` of each sum gives a level of the pyramid. These
    convolutions have a bias, which starts at zero, and no normalisation or activation. Their
    kernels, and those of upsamplers that are convolutions, are initialised with the uniform
    distribution of Glorot and Bengio. ``i`` is the level, 5 for the last map.

    If a map was halved from an odd side, the upsampled map is cropped at its end; for ``"nearest"``
    this equals interpolation to the odd side. The lateral is the guide of upsamplers that read one.

    The kinds differ in P6. In ``"fpn"`` it consists of every second pixel of P5, as in detectron2.
    mmdet's ``FPN_CARAFE``, with which the authors of CARAFE published their detectors, has a fifth
    lateral: ``lateral_6``, 3x3 of stride 2 on C5. Its level is like the others, with an output and
    an upsampler that adds it to the next finer level.

    Cost for ResNet-50's 256, 512, 1024 and 2048 channels: 984,064 parameters in laterals and
    590,080 in each output, 3,344,384 in all; ``"fpn_carafe"`` has 5,308,928 more. The parameters of
    three upsamplers, or four in ``"fpn_carafe"``, are added to these; see
    :func:`experiments.resamplers.upsamplers.upsample`.

    Args:
        config: sizes and choices of the pyramid.
        dtype: dtype of the computation, float32 or bfloat16; the default is the common dtype of
            input and parameters.
    """

    config: FPNConfig
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, maps: tuple[Float[Array, "batch rows columns channels"], ...]
    ) -> tuple[Float[Array, "batch rows columns features"], ...]:
        """Maps C2, C3, C4 and C5 to P2, P3, P4, P5 and, with an extra level, P6.

        Args:
            maps: two or more maps ``[B, H, W, C]``, finest first, each half the size of the
                previous one, rounded up, as from :meth:`ResNet.features`. The last is always C5.

        Returns:
            One map ``[B, H, W, channels]`` for each input and, with ``extra_level``, one more map
            of half the size of the last one, rounded up.

        Raises:
            ValueError: there are fewer than two maps, or a map is not half the size of the one
                before.
        """
        _check_sizes(maps)
        config = self.config
        lowest = 6 - len(maps)
        conv = functools.partial(
            nn.Conv,
            config.channels,
            dtype=self.dtype,
            kernel_init=_XAVIER_UNIFORM,
            conv_general_dilated=convolve,
        )
        sums = [conv((1, 1), name=f"lateral_{i}")(x) for i, x in enumerate(maps, lowest)]
        if config.extra_level and config.kind == "fpn_carafe":
            sums.append(conv((3, 3), strides=2, padding=1, name="lateral_6")(maps[-1]))
        for index in reversed(range(1, len(sums))):
            below = sums[index - 1]
            sums[index - 1] = below + upsample(
                sums[index],
                config.upsampler,
                name=f"upsample_{lowest + index}",
                size=below.shape[1:3],
                guide=below,
                carafe=config.carafe,
                kernel_init=_XAVIER_UNIFORM,
                dtype=self.dtype,
            )
        levels = [
            conv((3, 3), padding=1, name=f"output_{i}")(x) for i, x in enumerate(sums, lowest)
        ]
        if config.extra_level and config.kind == "fpn":
            levels.append(levels[-1][:, ::2, ::2])
        return tuple(levels)


def _check_sizes(maps: tuple[jax.Array, ...]) -> None:
    sizes = [x.shape[1:3] for x in maps]
    halves = [tuple(-(-side // 2) for side in size) for size in sizes]
    if len(sizes) < 2 or sizes[1:] != halves[:-1]:
        raise ValueError(
            "maps must be two or more, each half of the one before it, rounded up, "
            f"got sizes {sizes}"
        )
