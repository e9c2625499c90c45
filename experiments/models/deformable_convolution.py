"""Modulated deformable convolution ("DCNv2", reference 53)."""

import numbers

import flax.linen as nn
import jax
import jax.numpy as jnp
from carafe_kernels.geometry import positive_integer
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.models.deformable_sums import Geometry, convolve_deformed

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def modulated_deformable_convolution(
    x: Float[Array, "batch height width channels"],
    offsets: Float[Array, "batch out_height out_width offsets"],
    masks: Float[Array, "batch out_height out_width masks"],
    kernel: Float[Array, "rows columns group_channels features"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Float[Array, "batch out_height out_width features"]:
    r"""Convolves with taps at predicted positions, each scaled by a predicted mask.

    The output at ``p`` is the sum over the ``K`` taps ``k`` of the kernel (Zhu et al., *Deformable
    ConvNets v2: More Deformable, Better Results*, CVPR 2019, equation 1; reference 53):

    .. math::
        y(p) = \sum_k m_k(p) \, w_k^\top
            x(\text{stride} \, p - \text{padding} + \text{dilation} \, k + \Delta_k(p))

    A value between pixels is interpolated bilinearly, with zeros outside of the map. A sample
    counts only if its row is greater than -1 and less than ``H``, and its column is greater than -1
    and less than ``W``. Otherwise it is zero, and so are its gradients, also exactly at -1.

    One output pixel takes ``K * ((2 * F / groups + 7) * C + F)`` operations, and about 15 for the
    position and the weights of each sample. Positions have the dtype of the offsets, and sums are
    computed in float32, or in float64 if ``x`` is float64. Samples are computed for one tap of at
    most 2048 outputs at a time, and again in the backward pass. There are no forward-mode
    derivatives.

    Args:
        x: feature map ``[B, H, W, C]``.
        offsets: offset of each tap in pixels, ``[B, H', W', deformable_groups * K * 2]``, in
            float32 or float64: deformable groups one after the other, in each the taps in row-major
            order, for each tap its row and its column offset.
        masks: factor of each tap, ``[B, H', W', deformable_groups * K]``, in any floating dtype:
            deformable groups one after the other, in each the taps in row-major order.
        kernel: kernel ``[kh, kw, C / groups, F]`` in the dtype of ``x``.
        stride: stride along both axes.
        padding: padding on each side of both axes, in pixels.
        dilation: distance between neighbouring taps, in pixels.
        groups: number of groups of the convolution.
        deformable_groups: number of channel groups, each with offsets and masks of its own.

    Returns:
        A map ``[B, H', W', F]`` in the dtype of ``x``.

    Raises:
        ValueError: a shape or a dtype does not fit, a number of groups does not divide the
            channels, ``groups`` does not divide the features, or a setting is too small.
    """
    geometry = Geometry(stride, padding, dilation, groups, deformable_groups)
    _check_settings(x.shape, kernel.shape[-1], geometry)
    _check_arrays(x, offsets, masks, kernel, geometry)
    return convolve_deformed(geometry, x, offsets, masks, kernel)


def _check_settings(shape: tuple[int, ...], features: int, geometry: Geometry) -> None:
    if len(shape) != 4:
        raise ValueError(f"x must be [B, H, W, C], got {shape}")
    for name in ("stride", "dilation", "groups", "deformable_groups"):
        positive_integer(name, getattr(geometry, name))
    if not isinstance(geometry.padding, numbers.Integral) or geometry.padding < 0:
        raise ValueError(f"padding must be an integer of at least 0, got {geometry.padding!r}")
    channels, groups = shape[3], geometry.groups
    if channels % groups or features % groups:
        raise ValueError(
            f"groups must divide {channels} channels and {features} features, got {groups}"
        )
    if channels % geometry.deformable_groups:
        raise ValueError(
            f"deformable_groups must divide {channels} channels, got {geometry.deformable_groups}"
        )


def _check_arrays(
    x: jax.Array, offsets: jax.Array, masks: jax.Array, kernel: jax.Array, geometry: Geometry
) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must have a floating dtype, got {x.dtype}")
    group_channels = x.shape[3] // geometry.groups
    if kernel.ndim != 4 or kernel.shape[2] != group_channels or 0 in kernel.shape:
        raise ValueError(
            f"kernel must be [kh, kw, C / groups, F] with C / groups = {group_channels}, "
            f"got {kernel.shape}"
        )
    if kernel.dtype != x.dtype:
        raise ValueError(f"kernel must have the dtype of x, {x.dtype}, got {kernel.dtype}")
    rows, columns = kernel.shape[:2]
    size = geometry.output_size(x, (rows, columns))
    if min(size) < 1:
        reach = tuple(geometry.dilation * (taps - 1) + 1 for taps in (rows, columns))
        raise ValueError(
            f"x with its padding must not be smaller than the dilated kernel, {reach}, "
            f"got {x.shape} and padding {geometry.padding}"
        )
    samples = geometry.deformable_groups * rows * columns
    for name, array, channels, meaning in (
        ("offsets", offsets, 2 * samples, "deformable_groups * K * 2"),
        ("masks", masks, samples, "deformable_groups * K"),
    ):
        expected = (x.shape[0], *size, channels)
        if array.shape != expected:
            raise ValueError(
                f"{name} must be [B, H', W', {meaning}] = {expected}, got {array.shape}"
            )
    if offsets.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"offsets must be float32 or float64, got {offsets.dtype}")
    if not jnp.issubdtype(masks.dtype, jnp.floating):
        raise ValueError(f"masks must have a floating dtype, got {masks.dtype}")


class ModulatedDeformableConv(nn.Module):
    """Modulated deformable convolution, with a convolution that predicts its offsets and masks.

    The convolution ``conv_offset`` computes in float32, because offsets in 16 bits are not accurate
    to a fraction of a pixel on a large map. The sigmoid of its last third of features are the
    masks. It starts at zero, so a new layer computes half of a convolution with its ``kernel``.

    The parameters are ``kernel``, ``[k, k, C / groups, features]``, and of ``conv_offset`` a kernel
    ``[k, k, C, 3 * deformable_groups * k * k]`` and a bias. For ``k = 3`` and one deformable group
    that is ``243 * C + 27`` parameters more than a convolution has.

    See :func:`modulated_deformable_convolution` for the equation and the errors.

    Attributes:
        features: number of output channels.
        kernel_size: side of both kernels.
        strides: stride of both convolutions along both axes.
        padding: padding on each side of both axes, in pixels.
        dilation: distance between neighbouring taps, in pixels.
        groups: number of groups of the deformable convolution.
        deformable_groups: number of channel groups, each with offsets and masks of its own.
        kernel_init: initializer of ``kernel``.
        dtype: dtype of the computation and of the result; by default the common dtype of the input
            and the parameters.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    deformable_groups: int = 1
    kernel_init: jax.nn.initializers.Initializer = _HE_NORMAL
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', features]``."""
        geometry = Geometry(
            self.strides, self.padding, self.dilation, self.groups, self.deformable_groups
        )
        positive_integer("kernel_size", self.kernel_size)
        _check_settings(x.shape, self.features, geometry)
        taps = self.kernel_size**2
        predicted = nn.Conv(
            3 * self.deformable_groups * taps,
            (self.kernel_size, self.kernel_size),
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.dilation,
            kernel_init=nn.initializers.zeros,
            dtype=jnp.float32,
            conv_general_dilated=convolve,
            name="conv_offset",
        )(x)
        offsets, masks = jnp.split(predicted, [2 * self.deformable_groups * taps], axis=-1)
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return modulated_deformable_convolution(
            x, offsets, nn.sigmoid(masks), kernel, **geometry._asdict()
        )
