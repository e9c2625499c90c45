"""Replaces the reassembly kernels of all CARAFE++ layers of a network."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from carafe_jax import Scale, reassemble
from carafe_jax.linen import CARAFE

Kind = Literal["own", "shuffled", "shifted", "mean", "box"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Mean kernels of each layer, by the path of the layer.
MeanKernels = Mapping[str, Float[Array, "up up weight_channels"]]


@contextlib.contextmanager
def replaced_kernels(kind: Kind, means: MeanKernels | None = None) -> Iterator[None]:
    """Replaces the kernels of every Linen :class:`carafe_jax.linen.CARAFE` that is traced inside.

    Use it inside the function that is compiled, so that no program is reused that was traced
    without it. It changes calls of a layer, and calls of its method ``reassembly_kernels``, whose
    kernels the network applies itself. All other parts of the network stay as they are, and so do
    the kernels that the layer sows.

    >>> import jax, jax.numpy as jnp
    >>> layer = CARAFE(up=2)
    >>> x = jnp.ones((1, 8, 8, 4))
    >>> variables = layer.init(jax.random.key(0), x)
    >>> with replaced_kernels("box"):
    ...     y = layer.apply(variables, x)
    >>> print(f"{y[0, 0, 0, 0]:.2f} {y[0, 8, 8, 0]:.2f}")
    0.36 1.00

    Args:
        kind: kernels that are used. ``"own"``: the kernels that the layer predicts.
            ``"shuffled"``: the kernels predicted for the previous image of the batch, and for the
            first image the kernels of the last. ``"shifted"``: the kernels predicted for the pixel
            of the same phase half a map away along both axes, where the map continues at its other
            side. ``"mean"``: one kernel for each phase of a cell,
            the same at all positions and for all images. ``"box"``: the kernels of logits that are
            0, with which training starts: all weights are ``1 / k**2``, or 1/2 with the normaliser
            ``"sigmoid"``.
        means: kernels of ``"mean"`` for each layer, by the path of the layer, such as
            ``"neck/upsample_5"``; ``[up, up, groups * k * k]``, by the phases of the row and of the
            column. See :func:`experiments.kernel_studies.mean_kernels.mean_kernels`.

    Raises:
        ValueError: ``kind`` is unknown; ``means`` are given for another kind than ``"mean"``, or
            missing for it; or, when a layer is called, ``means`` lack the layer, or a batch of
            ``"shuffled"`` has fewer than two images.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if (means is not None) != (kind == "mean"):
        given = "None" if means is None else "kernels"
        raise ValueError(f"means must be kernels for 'mean' and None otherwise, got {given}")

    def replace(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if kind == "own" or not isinstance(layer, CARAFE) or layer.is_initializing():
            return call(*args, **kwargs)
        if context.method_name == "reassembly_kernels":
            kernels = call(*args, **kwargs)
            match kind:
                case "shuffled":
                    return _of_previous_image(kernels)
                case "shifted":
                    return _half_a_map_away(kernels, layer.up)
                case "mean":
                    assert means is not None
                    return _repeated(_kernels_of(layer, means), kernels.shape, kernels.dtype)
                case "box":
                    return jnp.full_like(kernels, _box_weight(layer))
        if context.method_name == "__call__":
            return _reassembled(layer, *args, **kwargs)
        return call(*args, **kwargs)

    with nn.intercept_methods(replace):
        yield


def _box_weight(layer: CARAFE) -> float:
    return 0.5 if layer.normalizer == "sigmoid" else 1 / layer.kernel_size**2


def _reassembled(
    layer: CARAFE,
    x: jax.Array,
    use_running_average: bool | None = None,
    size: tuple[int, int] | None = None,
    scale: Scale | None = None,
) -> jax.Array:
    """Does what a call of the layer does, with the kernels that its method returns."""
    x = jnp.asarray(x, layer.dtype)
    kernels = layer.reassembly_kernels(x, use_running_average, size, scale)
    target: dict[str, Any] = {"size": size, "scale": scale}
    if size is None and scale is None:
        target = {"up": layer.up, "down": layer.down}
    return reassemble(
        x,
        kernels,
        **target,
        kernel_size=layer.kernel_size,
        groups=layer.groups,
        implementation=layer.implementation,
    )


def _of_previous_image(kernels: jax.Array) -> jax.Array:
    images = kernels.shape[0] if kernels.ndim > 3 else 1
    if images < 2:
        raise ValueError(
            "x must have a batch of at least two images for shuffled kernels, got kernels of "
            f"shape {kernels.shape}"
        )
    return jnp.roll(kernels, 1, axis=0)


def _half_a_map_away(kernels: jax.Array, up: int) -> jax.Array:
    for axis in (-3, -2):
        outputs = kernels.shape[axis]
        # A last cell that is not complete takes part, but gives no kernels.
        cells = max(1, outputs // up)
        index = (np.arange(outputs) + cells // 2 * up) % (cells * up)
        kernels = jnp.take(kernels, index, axis=axis)
    return kernels


def _kernels_of(layer: CARAFE, means: MeanKernels) -> jax.Array:
    name = "/".join(layer.path)
    if name not in means:
        raise ValueError(f"means must have kernels of the layer {name!r}, got {sorted(means)}")
    kernels = jnp.asarray(means[name])
    expected = (layer.up, layer.up, layer.groups * layer.kernel_size**2)
    if kernels.shape != expected:
        raise ValueError(f"means of {name!r} must have shape {expected}, got {kernels.shape}")
    return kernels


def _repeated(cell: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
    """Repeats the kernels of a cell over a map: ``[up, up, n] -> [..., H', W', n]``."""
    rows, columns = shape[-3:-1]
    up = cell.shape[0]
    tiled = jnp.tile(cell.astype(dtype), (-(-rows // up), -(-columns // up), 1))
    return jnp.broadcast_to(tiled[:rows, :columns], shape)
