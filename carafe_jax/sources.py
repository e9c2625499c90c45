"""Source weights: how much each pixel of an earlier map contributes to a pixel of a later map.

A network rescales maps by several reassemblies one after the other, such as the top-down pathway of
a feature pyramid. With fixed kernels this chain is linear in its first map, so each pixel of the
last map is a weighted sum of pixels of the first map. The *source weights* of a target pixel are
these weights (Figs. 1 and 9 of the CARAFE++ paper). Layers between the reassemblies, such as
convolutions and laterals, are not part of the chain.

``carafe_jax.linen.collect_reassemblies`` and ``carafe_jax.nnx.collect_reassemblies`` return the
reassemblies of a model.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Geometry, positive_integer
from jaxtyping import Array, Bool, Float, Int

from carafe_jax._checks import checked_array, checked_input
from carafe_jax._ops import reassemble
from carafe_jax._resizing import checked_resize


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernels",),
    meta_fields=("size", "kernel_size", "up", "down", "groups", "name", "scale"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reassembly:
    """A reassembly with fixed kernels. It is a pytree whose only leaf is ``kernels``.

    The fields are checked by the functions that take a chain.

    Attributes:
        kernels: reassembly kernels ``[..., H', W', groups * k * k]`` with the size of the output,
            as in :func:`carafe_jax.reassemble`.
        size: height ``H`` and width ``W`` of the input, in pixels.
        kernel_size: side ``k`` of a kernel, odd.
        up: numerator of the scale.
        down: denominator of the scale.
        groups: number of channel groups, each with kernels of its own.
        name: name of the layer in its model, such as ``"neck/upsample_5"``; empty for a reassembly
            that belongs to no model.
        scale: scale of rows and of columns, in place of ``up`` and ``down``, which are then 1;
            ``None`` for a reassembly by ``up / down``.
    """

    kernels: Float[Array, "*batch out_height out_width groups*kernel_size**2"]
    size: tuple[int, int]
    kernel_size: int
    up: int
    down: int
    groups: int = 1
    name: str = ""
    scale: tuple[Fraction, Fraction] | None = None

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output, in pixels."""
        rows, columns = self.kernels.shape[-3:-1]
        return rows, columns


def reassemble_chain(
    chain: Sequence[Reassembly], x: Float[Array, "*batch height width channels"]
) -> Float[Array, "*batch out_height out_width channels"]:
    """Applies reassemblies one after the other.

    A map may be larger than the next reassembly reads, by less than the ``up`` of the reassembly
    that made it. It is then cropped at its end, as in a pyramid whose lateral has an odd size.
    Channels belong to groups in order, as in :func:`carafe_jax.reassemble`.

    >>> import jax.numpy as jnp
    >>> nearest = jnp.zeros((4, 4, 9)).at[..., 4].set(1.0)  # one-hot at the centre tap
    >>> step = Reassembly(kernels=nearest, size=(2, 2), kernel_size=3, up=2, down=1)
    >>> reassemble_chain([step], jnp.arange(4.0).reshape(2, 2, 1))[:, :, 0]
    Array([[0., 0., 1., 1.],
           [0., 0., 1., 1.],
           [2., 2., 3., 3.],
           [2., 2., 3., 3.]], dtype=float32)

    Args:
        chain: reassemblies in the order in which they are applied, at least one.
        x: first map, ``[..., H, W, C]`` with the batch axes of the kernels. ``H`` and ``W`` are the
            ``size`` of the first reassembly.

    Returns:
        The last map, ``[..., H', W', C]`` in the dtype of ``x``. Maps between the reassemblies have
        this dtype too.

    Raises:
        ValueError: ``chain`` is empty, has an entry that is not a :class:`Reassembly`, or has
            kernels or sizes that do not fit together or do not fit ``x``.
    """
    chain = _checked_chain(chain)
    x = checked_input(x)
    if x.shape[-3:-1] != chain[0].size:
        raise ValueError(
            f"x must be [..., H, W, C] with the size {chain[0].size} of {_label(chain, 0)}, "
            f"got shape {x.shape}"
        )
    for index, step in enumerate(chain):
        if step.kernels.shape[:-3] != x.shape[:-3]:
            raise ValueError(
                f"kernels of {_label(chain, index)} must have the batch axes {x.shape[:-3]} of x, "
                f"got shape {step.kernels.shape}"
            )
    return _reassemble_chain(chain, x)


def source_weights(
    chain: Sequence[Reassembly], targets: Int[Array, "targets 2"]
) -> Float[Array, "targets height width"]:
    """Returns the weight of each pixel of the first map in target pixels of the last map.

    The function works under :func:`jax.jit` and :func:`jax.vmap`, with chain and targets as
    arguments. It holds ``T`` maps of the size of each map of the chain, so pass many targets in
    several calls.

    >>> import jax.numpy as jnp
    >>> nearest = jnp.zeros((4, 4, 9)).at[..., 4].set(1.0)  # one-hot at the centre tap
    >>> step = Reassembly(kernels=nearest, size=(2, 2), kernel_size=3, up=2, down=1)
    >>> source_weights([step], jnp.array([[0, 3]]))
    Array([[[0., 1.],
            [0., 0.]]], dtype=float32)

    Args:
        chain: reassemblies in the order in which they are applied, at least one. Their kernels have
            no batch axes; use :func:`jax.vmap` for batches.
        targets: row and column of each target in the last map, ``[T, 2]`` integers.

    Returns:
        Weights ``[T, H, W]`` in float32, or in float64 if any kernels are float64. ``H`` and ``W``
        are the size of the first map. With several groups the weights are the mean over channels.
        The weights of a target sum to 1 for normalised kernels, and to less where kernels reach
        beyond the border of a map or into pixels that are cropped. Inside ``jit`` the values of
        ``targets`` are not known: there, the weights of a target outside the last map are 0.

    Raises:
        ValueError: ``chain`` is empty, has an entry that is not a :class:`Reassembly`, has kernels
            or sizes that do not fit together, or has kernels with batch axes. ``targets`` are not
            integers ``[T, 2]``, or known to be outside the last map.
    """
    chain = _checked_chain(chain)
    for index, step in enumerate(chain):
        if step.kernels.ndim != 3:
            raise ValueError(
                f"kernels of {_label(chain, index)} must have no batch axes, got shape "
                f"{step.kernels.shape}; use jax.vmap for batches"
            )
    targets = _checked_targets(targets, chain[-1].output_size)
    # Names do not matter here, and would compile the same program again.
    return _source_weights(tuple(dataclasses.replace(step, name="") for step in chain), targets)


@jax.jit
def _source_weights(chain: tuple[Reassembly, ...], targets: jax.Array) -> jax.Array:
    rows, columns = (jnp.arange(size) for size in chain[-1].output_size)
    double = any(step.kernels.dtype == jnp.float64 for step in chain)
    dtype = jnp.float64 if double else jnp.float32
    # With this number of channels, every combination of groups has the same number of channels.
    channels = math.lcm(*(step.groups for step in chain))
    first = jnp.zeros((*chain[0].size, channels), dtype)
    _, pull_back = jax.vjp(functools.partial(_reassemble_chain, chain), first)

    def weights_of(target: jax.Array) -> jax.Array:
        is_target = (rows == target[0])[:, None] & (columns == target[1])[None, :]
        one_hot = jnp.broadcast_to(is_target[..., None], (rows.size, columns.size, channels))
        (weights,) = pull_back(one_hot.astype(dtype))
        return weights.mean(axis=-1)

    return jax.vmap(weights_of)(targets)


def smallest_sources(
    weights: Float[Array, "*batch height width"], share: float = 0.7
) -> Bool[Array, "*batch height width"]:
    """Returns the smallest set of pixels that holds the given share of the weight.

    >>> import jax.numpy as jnp
    >>> smallest_sources(jnp.array([[0.5, 0.1], [0.1, 0.3]]), share=0.7)
    Array([[ True, False],
           [False,  True]], dtype=bool)

    Args:
        weights: source weights ``[..., H, W]`` in float16, bfloat16, float32 or float64, finite and
            not negative. Inside ``jit`` this is not checked.
        share: fraction of the sum of ``weights``, a number in (0, 1].

    Returns:
        True for the pixels of the set, ``[..., H, W]``. Among equal weights the pixel that is first
        in row-major order is taken first. The set is empty if all weights are 0.

    Raises:
        ValueError: ``share`` is out of range, or ``weights`` are not floats ``[..., H, W]``, or
            known to be negative or not finite.
    """
    if not isinstance(share, numbers.Real) or not 0 < share <= 1:
        raise ValueError(f"share must be a number in (0, 1], got {share!r}")
    return _smallest_sources(_checked_weights(weights), float(share))


@functools.partial(jax.jit, static_argnames="share")
def _smallest_sources(weights: jax.Array, share: float) -> jax.Array:
    flat = weights.reshape(*weights.shape[:-2], math.prod(weights.shape[-2:]))
    # The sums of many 16-bit weights would be rounded to few digits.
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
    order = jnp.argsort(-flat, axis=-1, stable=True)
    ordered = jnp.take_along_axis(flat, order, axis=-1)
    sums = jnp.cumsum(ordered, axis=-1)
    taken = ordered > 0
    if share < 1:  # share=1 takes all positive weights, even if rounding drops them from the sums
        before = jnp.concatenate([jnp.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
        taken &= before < share * sums[..., -1:]
    chosen = jnp.put_along_axis(jnp.zeros_like(taken), order, taken, axis=-1, inplace=False)
    return chosen.reshape(weights.shape)


def _reassemble_chain(chain: Sequence[Reassembly], x: jax.Array) -> jax.Array:
    for step in chain:
        height, width = step.size
        x = reassemble(
            x[..., :height, :width, :],
            step.kernels,
            kernel_size=step.kernel_size,
            up=step.up,
            down=step.down,
            groups=step.groups,
            scale=step.scale,
        )
    return x


def _label(chain: Sequence[Reassembly], index: int) -> str:
    """How errors name an entry of a chain."""
    name = chain[index].name
    return f"chain[{index}] ({name})" if name else f"chain[{index}]"


def _checked_chain(chain: Sequence[Reassembly]) -> tuple[Reassembly, ...]:
    """Returns the chain with kernels as arrays, or raises ``ValueError`` if it cannot be applied.

    JAX builds instances of pytrees with placeholders in place of arrays, so ``Reassembly`` itself
    cannot check its fields.
    """
    if not isinstance(chain, Sequence):
        raise ValueError(f"chain must be a sequence of Reassembly, got {type(chain).__name__}")
    if not chain:
        raise ValueError("chain must have at least one reassembly, got none")
    for index, step in enumerate(chain):
        if not isinstance(step, Reassembly):
            raise ValueError(f"chain[{index}] must be a Reassembly, got {type(step).__name__}")
    checked = tuple(_checked_step(_label(chain, index), step) for index, step in enumerate(chain))
    for index in range(1, len(checked)):
        before = checked[index - 1]
        for made, read in zip(before.output_size, checked[index].size, strict=True):
            if not 0 <= made - read < before.up:
                raise ValueError(
                    f"size of {_label(checked, index)} must be the size {before.output_size} of "
                    f"the map before it, or smaller by less than up={before.up} pixels, got "
                    f"{checked[index].size}"
                )
    return checked


def _checked_step(label: str, step: Reassembly) -> Reassembly:
    try:
        geometry = Geometry(step.kernel_size, step.up, step.down, step.groups)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    if not isinstance(step.size, tuple) or len(step.size) != 2:
        raise ValueError(f"size of {label} must be a tuple (height, width), got {step.size!r}")
    height, width = (positive_integer(f"size of {label}", pixels) for pixels in step.size)
    fixed = {"up": geometry.up, "down": geometry.down}
    try:
        resize = checked_resize(None, step.scale, (height, width), fixed)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    if resize is None:
        output, rescaled = tuple(map(geometry.output_size, (height, width))), "up / down"
    else:
        output, rescaled = resize.size, "scale"
    layout = f"[..., ceil(H * {rescaled}), ceil(W * {rescaled}), groups * kernel_size**2]"
    kernels = checked_array(f"kernels of {label}", step.kernels, layout)
    expected = (*output, geometry.weight_channels)
    if kernels.shape[-3:] != expected:
        raise ValueError(
            f"kernels of {label} must be {layout} with last axes {expected} for size "
            f"{(height, width)}, {geometry} and scale {step.scale}, got shape {kernels.shape}"
        )
    return dataclasses.replace(step, kernels=kernels, size=(height, width))


def _checked_targets(targets: Int[Array, "targets 2"], size: tuple[int, int]) -> jax.Array:
    """Returns targets as an array, or raises ``ValueError`` if one is known to be outside."""
    if not isinstance(targets, jax.Array):
        targets = np.asarray(targets)  # keeps values that JAX's default integers do not hold
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be integers, got dtype {targets.dtype}")
    if targets.ndim != 2 or targets.shape[1] != 2:
        raise ValueError(f"targets must be [T, 2], got shape {targets.shape}")
    if not isinstance(targets, jax.core.Tracer):
        values = np.asarray(targets)
        outside = np.flatnonzero(((values < 0) | (values >= np.array(size))).any(axis=1))
        if outside.size:
            first = int(outside[0])
            raise ValueError(
                f"targets must be rows and columns of the last map, of size {size}, got "
                f"{values[first].tolist()} in targets[{first}]"
            )
    return jnp.asarray(targets, jnp.int32)


def _checked_weights(weights: Float[Array, "*batch height width"]) -> jax.Array:
    """Returns weights as an array, or raises ``ValueError`` if they are known to be wrong."""
    weights = checked_array("weights", weights, "[..., H, W]", rank=2)
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            raise ValueError(
                f"weights must be finite and not negative, got {values[wrong][0].item()}"
            )
    return weights
