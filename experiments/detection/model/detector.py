"""Faster R-CNN (reference 35) and Mask R-CNN (reference 12) with a feature pyramid."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from experiments.detection.model.anchors import pyramid_anchors
from experiments.detection.model.boxes import clip, decode, is_nonempty
from experiments.detection.model.config import BoxHeadConfig, DetectorConfig, ProposalConfig
from experiments.detection.model.heads import BoxHead, MaskHead
from experiments.detection.model.nms import nms
from experiments.detection.model.roi_align import assign_levels, roi_align
from experiments.detection.model.rpn import RPNHead, propose
from experiments.models import resnet
from experiments.models.fpn import FPN
from experiments.models.resnet import ResNet

# Weights of the box head's deltas, as in detectron2 and mmdet 2.
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# RoIAlign uses the first levels, with strides of 4 to 32. Only the RPN uses the last level.
_ROI_LEVELS = 4

Detections = dict[str, jax.Array]
Pyramid = Sequence[jax.Array]


class Detector(nn.Module):
    """A two-stage detector with static shapes.

    ``__call__`` is inference. Each stage is also a separate method, because training samples
    examples between the stages.

    Args:
        config: sizes and choices of the detector.
        num_classes: number of classes without the background.
        dtype: dtype of the computation, float32 or bfloat16; parameters, logits, boxes and scores
            are float32.
        axis_name: name of the mapped axis over which ``"sync_batch"`` computes statistics.
    """

    config: DetectorConfig
    num_classes: int
    dtype: jax.typing.DTypeLike | None = None
    axis_name: str | None = None

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        self.backbone = ResNet(
            config.backbone,
            num_classes=None,
            dtype=dtype,
            axis_name=self.axis_name,
            frozen_stages=config.frozen_stages,
        )
        self.neck = FPN(config.neck, dtype=dtype)
        self.rpn = RPNHead(len(config.anchors.ratios), dtype=dtype)
        self.box_head = BoxHead(config.box, self.num_classes, dtype=dtype)
        if config.masks:
            self.mask_head = MaskHead(config.mask, self.num_classes, dtype=dtype)

    def features(
        self, image: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[Float[Array, "batch rows columns channels"], ...]:
        """The feature pyramid P2 to P6 of images, with strides of 4 to 64."""
        return self.neck(self.backbone.features(image, train))

    def score_anchors(
        self, pyramid: Pyramid, input_size: tuple[int, int] | None = None
    ) -> tuple[list[jax.Array], list[jax.Array], tuple[Any, ...]]:
        """The RPN's logits, deltas and anchors for each level; see :class:`.rpn.RPNHead`.

        Args:
            pyramid: feature pyramid from :meth:`features`.
            input_size: height and width of the padded input, which measured strides of the anchors
                need.
        """
        shapes = [(level.shape[1], level.shape[2]) for level in pyramid]
        anchors = pyramid_anchors(shapes, self.config.anchors, input_size)
        return *self.rpn(pyramid), anchors

    def sample_regions(
        self, pyramid: Pyramid, boxes: Float[Array, "batch rois 4"], side: int
    ) -> Float[Array, "batch rois side side channels"]:
        """Samples the feature pyramid in regions; see :func:`.roi_align.roi_align`.

        Args:
            pyramid: feature pyramid from :meth:`features`.
            boxes: boxes of the regions in pixels, ``[B, R, 4]``.
            side: side of the result, in bins.
        """
        levels = pyramid[:_ROI_LEVELS]
        strides = self.config.anchors.strides[:_ROI_LEVELS]
        options = self.config.roi_align
        return roi_align(
            levels,
            strides,
            boxes,
            assign_levels(boxes, len(levels)),
            side,
            options.sampling_ratio,
            options.aligned,
        )

    def classify(
        self, pyramid: Pyramid, boxes: Float[Array, "batch rois 4"]
    ) -> tuple[Float[Array, "batch rois logits"], Float[Array, "batch rois boxes 4"]]:
        """The box head's logits and deltas of regions; see :class:`.heads.BoxHead`."""
        return self.box_head(self.sample_regions(pyramid, boxes, self.config.box.size))

    def predict_masks(
        self,
        pyramid: Pyramid,
        boxes: Float[Array, "batch rois 4"],
        labels: Int[Array, "batch rois"],
    ) -> Float[Array, "batch rois side side"]:
        """Predicts a mask of each region for the class of the region.

        Args:
            pyramid: feature pyramid from :meth:`features`.
            boxes: boxes of the regions in pixels, ``[B, R, 4]``.
            labels: classes of the regions, from 0, ``[B, R]``.

        Returns:
            Logits of the masks, float32 ``[B, R, M, M]``.
        """
        logits = self.mask_head(self.sample_regions(pyramid, boxes, self.config.mask.size))
        if self.config.mask.class_agnostic:
            return logits[..., 0]
        return jnp.take_along_axis(logits, labels[:, :, None, None, None], axis=-1)[..., 0]

    def propose(
        self,
        logits: list[jax.Array],
        deltas: list[jax.Array],
        anchors: Sequence[Any],
        size: Int[Array, "batch 2"],
        config: ProposalConfig,
    ) -> tuple[Float[Array, "batch proposals 4"], Bool[Array, "batch proposals"]]:
        """The proposals of each image; see :func:`.rpn.propose`."""

        def propose_for_image(
            logits: Any, deltas: Any, size: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            return propose(logits, deltas, anchors, size, config)

        return jax.vmap(propose_for_image)(logits, deltas, size)

    def __call__(
        self, image: Float[Array, "batch height width 3"], size: Int[Array, "batch 2"]
    ) -> Detections:
        """Detects objects.

        Args:
            image: normalised images, zero in the padding, ``[B, H, W, 3]``.
            size: height and width of each image without its padding, in pixels, ``[B, 2]``.

        Returns:
            ``boxes`` float32 ``[B, D, 4]`` in pixels of the input, ``scores`` float32 ``[B, D]``,
            descending, ``labels`` int32 ``[B, D]``, ``valid`` bool ``[B, D]``, false for padding;
            and with a mask head ``masks`` float32 ``[B, D, M, M]``, probabilities over each box. If
            a head predicts a value that is not finite for an image, all scores of the image are
            NaN: otherwise the image would look like one with few or no objects.
        """
        pyramid = self.features(image)
        input_size = (image.shape[1], image.shape[2])
        anchor_logits, anchor_deltas, anchors = self.score_anchors(pyramid, input_size)
        proposals, valid = self.propose(
            anchor_logits, anchor_deltas, anchors, size, self.config.proposals
        )
        logits, deltas = self.classify(pyramid, proposals)
        chosen = functools.partial(select, config=self.config.box)
        found = jax.vmap(chosen)(logits, deltas, proposals, valid, size)
        if self.config.masks:
            masks = self.predict_masks(pyramid, found["boxes"], found["labels"])
            found["masks"] = nn.sigmoid(masks)
        given = [*anchor_logits, *anchor_deltas, logits, deltas]
        given += [masks] if self.config.masks else []
        finite = jnp.stack([jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in given]).all(0)
        found["scores"] = jnp.where(finite[:, None], found["scores"], jnp.nan)
        return found

    def layers(
        self, image: Float[Array, "batch height width 3"], proposals: int = 1, detections: int = 1
    ) -> None:
        """Applies every layer, each head to the given number of boxes, and nothing else.

        This initialises the parameters, which do not depend on the boxes, and measures the cost of
        the layers.
        """
        pyramid = self.features(image)
        self.score_anchors(pyramid, (image.shape[1], image.shape[2]))
        batch = image.shape[0]
        self.classify(pyramid, jnp.zeros((batch, proposals, 4)))
        if self.config.masks:
            labels = jnp.zeros((batch, detections), jnp.int32)
            self.predict_masks(pyramid, jnp.zeros((batch, detections, 4)), labels)


def is_frozen(path: Sequence[str], config: DetectorConfig) -> bool:
    """Whether the parameter at ``path`` in a detector's tree is frozen."""
    return path[0] == "backbone" and resnet.is_frozen(path[1:], config.frozen_stages)


def select(
    logits: Float[Array, "proposals logits"],
    deltas: Float[Array, "proposals boxes 4"],
    proposals: Float[Array, "proposals 4"],
    valid: Bool[Array, " proposals"],
    size: Int[Array, "2"],
    config: BoxHeadConfig,
) -> Detections:
    """Selects the detections of one image: refines, classifies, and applies NMS to each class.

    By default, boxes that the deltas have moved out of the image, or made thinner than a hundredth
    of a pixel, are dropped before NMS, as in torchvision. Boxes and scores that are not finite are
    always dropped.

    Args:
        logits: the box head's logits, the background last, ``[P, K + 1]``.
        deltas: the box head's deltas, ``[P, K, 4]``, or ``[P, 1, 4]`` for class-agnostic boxes.
        proposals: proposals in pixels, ``[P, 4]``.
        valid: False for proposals that are padding, ``[P]``.
        size: height and width of the image in pixels.
        config: which boxes are dropped, and the largest number of detections ``D``.

    Returns:
        ``boxes`` ``[D, 4]``, ``scores``, ``labels`` and ``valid`` ``[D]``.
    """
    scores = jax.nn.softmax(logits)[:, :-1].T  # [K, P]
    refined = jax.vmap(decode, in_axes=(1, None, None, None))(
        deltas, proposals, BOX_WEIGHTS, config.clamps_shrinking
    )
    boxes = clip(refined, size)  # [K, P, 4] or [1, P, 4]
    classes = scores.shape[0]
    boxes = jnp.broadcast_to(boxes, (classes, *boxes.shape[1:]))
    if config.shortest_side is None:
        # Clipping would make infinite boxes finite.
        usable = jnp.broadcast_to(jnp.isfinite(refined).all(axis=-1), scores.shape)
    else:
        usable = is_nonempty(boxes, config.shortest_side)
    candidate = valid[None] & (scores > config.score_threshold) & usable
    kept = jax.vmap(nms, in_axes=(0, 0, None, 0))(boxes, scores, config.iou_threshold, candidate)
    ranked = jnp.where(kept, scores, -jnp.inf).reshape(-1)  # [K * P]
    best, order = jax.lax.top_k(ranked, min(config.detections, ranked.size))
    missing = config.detections - order.size
    found = jnp.isfinite(best)
    result = {
        # A product with 0 would keep NaN.
        "boxes": jnp.where(found[:, None], boxes.reshape(-1, 4)[order], 0),
        "scores": jnp.where(found, best, 0.0),
        "labels": (order // scores.shape[1]).astype(jnp.int32),
        "valid": found,
    }
    return {
        name: jnp.pad(value, ((0, missing), *[(0, 0)] * (value.ndim - 1)))
        for name, value in result.items()
    }
