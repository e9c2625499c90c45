"""Region proposal network (reference 35), one head for all levels of a pyramid (reference 23)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from carafe_jax.convolution import convolve
from experiments.detection.model.boxes import clip, decode, is_nonempty
from experiments.detection.model.config import ProposalConfig
from experiments.detection.model.nms import nms
from experiments.resamplers.checks import checked_map

WEIGHTS = (1.0, 1.0, 1.0, 1.0)

_NORMAL = nn.initializers.normal(0.01)


class RPNHead(nn.Module):
    """Scores every anchor, and predicts how to refine it.

    Args:
        anchors: number of anchors at each position.
        dtype: dtype of the hidden convolution.
    """

    anchors: int
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "batch height width channels"]]
    ) -> tuple[list[Float[Array, "batch boxes"]], list[Float[Array, "batch boxes 4"]]]:
        """Maps the levels ``[B, H, W, C]`` to logits and deltas.

        Returns:
            For each level float32 objectness logits ``[B, H * W * A]``, and float32 deltas
            ``[B, H * W * A, 4]`` for :func:`experiments.detection.model.boxes.decode`, both in the
            order of the anchors.
        """
        pyramid = [checked_map("each level of pyramid", level) for level in pyramid]
        channels = pyramid[0].shape[-1]

        def convolution(features: int, size: int, dtype: Any, name: str) -> nn.Module:
            return nn.Conv(
                features,
                (size, size),
                padding=size // 2,
                kernel_init=_NORMAL,
                dtype=dtype,
                conv_general_dilated=convolve,
                name=name,
            )

        shared = convolution(channels, 3, self.dtype, "conv")
        # Not in bfloat16, in which thousands of anchors would have the same score.
        objectness = convolution(self.anchors, 1, jnp.float32, "objectness")
        boxes = convolution(4 * self.anchors, 1, jnp.float32, "boxes")
        logits, deltas = [], []
        for level in pyramid:
            x = nn.relu(shared(level))
            batch = x.shape[0]
            logits.append(objectness(x).reshape(batch, -1))
            deltas.append(boxes(x).reshape(batch, -1, 4))
        return logits, deltas


def propose(
    logits: Sequence[Float[Array, " boxes"]],
    deltas: Sequence[Float[Array, "boxes 4"]],
    anchors: Sequence[Float[Array, "boxes 4"]],
    size: Int[Array, "2"],
    config: ProposalConfig,
) -> tuple[Float[Array, "proposals 4"], Bool[Array, " proposals"]]:
    """Selects the proposals of one image.

    NMS runs on the best boxes of each level. The proposals are the best boxes that NMS keeps, over
    all levels.

    Args:
        logits: objectness logits of each level, ``[N_l]``.
        deltas: deltas of each level, ``[N_l, 4]``.
        anchors: anchors of each level, ``[N_l, 4]``.
        size: height and width of the image within the padded input, in pixels.
        config: numbers of boxes and proposals, and which boxes are dropped.

    Returns:
        ``P = config.kept`` boxes ``[P, 4]``, clipped to the image, with descending scores, and
        their validity ``[P]``, false for padding. Both are constants for the gradient.
    """
    candidates = [
        _best_of_level(*level, size, config) for level in zip(logits, deltas, anchors, strict=True)
    ]
    # NMS runs on all levels together: on a GPU, each iteration of its loops waits for the host.
    longest = max(scores.size for _, scores in candidates)
    boxes = jnp.stack([_padded(boxes, longest, 0.0) for boxes, _ in candidates])  # [L, N, 4]
    scores = jnp.stack([_padded(scores, longest, -jnp.inf) for _, scores in candidates])
    by_level = jax.vmap(nms, in_axes=(0, 0, None, 0))
    kept = by_level(boxes, scores, config.iou_threshold, jnp.isfinite(scores))
    scores = jnp.where(kept, scores, -jnp.inf).reshape(-1)
    boxes = boxes.reshape(-1, 4)
    best, order = jax.lax.top_k(scores, min(config.kept, scores.size))
    missing = config.kept - order.size
    boxes = jnp.pad(boxes[order], ((0, missing), (0, 0)))
    valid = jnp.pad(jnp.isfinite(best), (0, missing))
    return jax.lax.stop_gradient(jnp.where(valid[:, None], boxes, 0)), valid


def _best_of_level(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    size: jax.Array,
    config: ProposalConfig,
) -> tuple[jax.Array, jax.Array]:
    """The best refined anchors of a level, and their scores, -inf for boxes that are dropped."""
    if not config.in_padding:
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        # Anchors in the padding are never trained, and there may be many with the same score.
        inside = (centres < size[None, ::-1].astype(centres.dtype)).all(axis=-1)
        logits = jnp.where(inside, logits, -jnp.inf)
    scores, order = jax.lax.top_k(logits, min(config.per_level, logits.size))
    best = jnp.asarray(anchors)[order]
    boxes = clip(decode(deltas[order], best, WEIGHTS, config.clamps_shrinking), size)
    return boxes, jnp.where(is_nonempty(boxes, config.shortest_side), scores, -jnp.inf)


def _padded(array: jax.Array, length: int, value: float) -> jax.Array:
    widths = ((0, length - array.shape[0]), *[(0, 0)] * (array.ndim - 1))
    return jnp.pad(array, widths, constant_values=value)
