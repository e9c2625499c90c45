"""Sets the options of a detector that agree with another library."""

import dataclasses
from typing import Literal, get_args

from experiments.detection.configs import DetectionConfig
from experiments.detection.model.config import RoIAlignConfig
from experiments.engine.config import check
from experiments.models.input_config import InputConfig

Convention = Literal["torchvision", "detectron2", "mmdet"]
# Both styles of mmdet's backbones.
Style = Literal["pytorch", "caffe"]

_IMAGENET = InputConfig()
# The channels of MSRA's weights are in the order of OpenCV, and their deviations are 1.
MSRA = InputConfig("bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))


def with_convention(
    config: DetectionConfig, convention: Convention, style: Style = "pytorch"
) -> DetectionConfig:
    """A config whose detector computes what another library's computes from the same padded pixels.

    Pixels and padding may differ. Images are resized with Pillow's bilinear filter, as in
    detectron2; torchvision and mmdet have other filters. Images are padded to the shape of a bucket
    (:mod:`experiments.detection.data.batches`); the libraries pad to the largest image of a batch.
    Padding changes the values at the border of an image, and so the detections there.

    The networks are those of Faster and Mask R-CNN with a feature pyramid: torchvision's with the
    weights ``COCO_V1``, detectron2's ``R50-FPN`` and ``R101-FPN``, and those of mmdet 2. The sizes
    of ``config``, its classes and its training are not changed, except for the number of proposals.

    ======================================  ============  ============  ==========================
    field                                   torchvision   detectron2    mmdet
    ======================================  ============  ============  ==========================
    ``model.backbone.norm_epsilon``         0             1e-5          1e-5
    ``model.backbone.stride_in_1x1``        False         True [1]_     False [2]_
    ``model.backbone.input``                RGB           BGR, std 1    RGB [2]_
    ``model.anchors.rounded``               True          False         False
    ``model.anchors.measured_strides``      True          False         False
    ``model.roi_align.aligned``             False         True          True
    ``model.roi_align.sampling_ratio``      2             0             0
    ``in_padding`` of proposals             True          True          True
    ``shortest_side`` of proposals          1e-3          0             0
    ``clamps_shrinking`` of proposals       False         False         True
    ``model.training_proposals.kept``       2000          1000          1000
    ``model.box.shortest_side``             1e-2          None          None
    ``model.box.clamps_shrinking``          False         False         True
    ``data.rounding``                       floor         half_up       half_up
    ``data.pad_multiple``                   32            32            32; ``"fpn_carafe"``: 64
    ======================================  ============  ============  ==========================

    These options of all three libraries are the defaults of the configs: scale, ratios and position
    of the anchors, numbers and thresholds of proposals and detections, the order of top-k and NMS,
    the weights of deltas, and clipping to the image without its padding. Differences of rounding
    have no options: torchvision and mmdet 2 rank proposals by probabilities, which are equal where
    logits are large; the tolerances of pyramid levels differ; and NMS of several classes or levels
    moves each of them by an offset.

    Args:
        config: config of a run.
        convention: name of the library.
        style: style of mmdet's backbone; the other libraries have no ``"caffe"``.

    Raises:
        ConfigError: the library or the style is unknown, or its detector cannot have the backbone
            of ``config``.

    .. [1] False for basic blocks, which have no 1x1 convolution.
    .. [2] With the style ``"caffe"``, as in ``faster_rcnn_r50_caffe_fpn_1x``, both are those of
       detectron2.
    """
    names = get_args(Convention)
    check(convention in names, "convention", f"one of {names}", convention)
    torchvision, detectron2, mmdet = (convention == name for name in names)
    styles = get_args(Style) if mmdet else ("pytorch",)
    check(style in styles, "style", f"one of {styles} for {convention}", style)
    msra = detectron2 or style == "caffe"
    model, data = config.model, config.data
    padded_more = mmdet and model.neck.kind == "fpn_carafe"
    proposals = {
        "in_padding": True,
        "shortest_side": 1e-3 if torchvision else 0.0,
        "clamps_shrinking": mmdet,
    }
    model = dataclasses.replace(
        model,
        backbone=dataclasses.replace(
            model.backbone,
            norm_epsilon=0.0 if torchvision else 1e-5,
            stride_in_1x1=msra and model.backbone.depth >= 50,
            input=MSRA if msra else _IMAGENET,
        ),
        anchors=dataclasses.replace(
            model.anchors, rounded=torchvision, measured_strides=torchvision
        ),
        training_proposals=dataclasses.replace(
            model.training_proposals, kept=2000 if torchvision else 1000, **proposals
        ),
        proposals=dataclasses.replace(model.proposals, **proposals),
        roi_align=RoIAlignConfig(aligned=not torchvision, sampling_ratio=2 if torchvision else 0),
        box=dataclasses.replace(
            model.box,
            shortest_side=1e-2 if torchvision else None,
            clamps_shrinking=mmdet,
        ),
    )
    data = dataclasses.replace(
        data,
        rounding="floor" if torchvision else "half_up",
        pad_multiple=64 if padded_more else 32,
    )
    return dataclasses.replace(config, model=model, data=data)
