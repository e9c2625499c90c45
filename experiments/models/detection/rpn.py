"""Region proposal network (reference 35), one head on all levels of a pyramid (reference 23)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from experiments.models.detection.boxes import clip, decode
from experiments.models.detection.config import ProposalConfig
from experiments.models.detection.nms import nms

WEIGHTS = (1.0, 1.0, 1.0, 1.0)

_NORMAL = nn.initializers.normal(0.01)


class RPNHead(nn.Module):
    """Scores every anchor, and predicts how to refine it.

    Args:
        anchors: of a place.
        dtype: of the convolutions.
    """

    anchors: int
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "batch height width channels"]]
    ) -> tuple[list[Float[Array, "batch boxes"]], list[Float[Array, "batch boxes 4"]]]:
        """Maps the levels ``[B, H, W, C]`` to logits and deltas.

        Returns:
            For each level float32 logits ``[B, H * W * A]`` of there being an object, and deltas
            ``[B, H * W * A, 4]`` for :func:`experiments.models.detection.boxes.decode`, in the
            order of the anchors.
        """
        channels = pyramid[0].shape[-1]

        def convolution(features: int, size: int, name: str) -> nn.Module:
            return nn.Conv(
                features,
                (size, size),
                padding=size // 2,
                kernel_init=_NORMAL,
                dtype=self.dtype,
                name=name,
            )

        shared = convolution(channels, 3, "conv")
        objectness = convolution(self.anchors, 1, "objectness")
        boxes = convolution(4 * self.anchors, 1, "boxes")
        logits, deltas = [], []
        for level in pyramid:
            x = nn.relu(shared(level))
            batch = x.shape[0]
            logits.append(objectness(x).reshape(batch, -1).astype(jnp.float32))
            deltas.append(boxes(x).reshape(batch, -1, 4).astype(jnp.float32))
        return logits, deltas


def propose(
    logits: Sequence[Float[Array, " boxes"]],
    deltas: Sequence[Float[Array, "boxes 4"]],
    anchors: Sequence[Float[Array, "boxes 4"]],
    size: Int[Array, "2"],
    config: ProposalConfig,
) -> tuple[Float[Array, "proposals 4"], Bool[Array, " proposals"]]:
    """The proposals of one image: the best boxes of each level after NMS, then the best of all.

    Args:
        logits: of each level, ``[N_l]``.
        deltas: likewise, ``[N_l, 4]``.
        anchors: likewise.
        size: height and width of the image within the padded input, in pixels.
        config: how many, and the threshold of NMS.

    Returns:
        ``config.kept`` boxes ``[P, 4]`` with descending scores, clipped to the image, and which of
        them there are ``[P]``. They are constants of the gradient.
    """
    candidates = []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        scores, order = jax.lax.top_k(level_logits, min(config.per_level, level_logits.size))
        boxes = clip(decode(level_deltas[order], jnp.asarray(level_anchors)[order], WEIGHTS), size)
        sides = boxes[:, 2:] - boxes[:, :2]
        valid = (sides > 0).all(axis=-1)
        kept = nms(boxes, scores, config.iou_threshold, valid)
        candidates.append((boxes, jnp.where(kept, scores, -jnp.inf)))
    boxes, scores = (jnp.concatenate(parts) for parts in zip(*candidates, strict=True))
    best, order = jax.lax.top_k(scores, min(config.kept, scores.size))
    missing = config.kept - order.size
    boxes = jnp.pad(boxes[order], ((0, missing), (0, 0)))
    valid = jnp.pad(jnp.isfinite(best), (0, missing))
    return jax.lax.stop_gradient(boxes * valid[:, None]), valid
