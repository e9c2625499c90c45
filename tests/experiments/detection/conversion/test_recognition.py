"""The detector in a file, from the names and shapes of its arrays, and files of other networks."""

import re

import pytest

from experiments.detection.conversion.conversion import run_config
from experiments.detection.conversion.recognition import recognise
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.weights.loading import WeightsError
from tests.experiments.detection.conversion import key_lists
from tests.experiments.detection.conversion.networks import LISTS


@pytest.mark.parametrize("name", LISTS)
def test_the_detector_of_each_list_is_recognised(name):
    model, library, names = LISTS[name]
    found = recognise(key_lists.read(name))
    assert (found.library, found.names) == (library, names)
    assert found.config == model
    assert found.has_counters == (library == "mmdet")


@pytest.mark.parametrize("name", LISTS)
def test_the_config_of_a_run_has_the_network_and_the_convention(name):
    model, library, _ = LISTS[name]
    config = run_config(recognise(key_lists.read(name)))
    assert config.model.neck == model.neck
    assert (config.model.masks, config.data.mask_side is None) == (model.masks, not model.masks)
    backbone = config.model.backbone
    assert backbone.depth == model.backbone.depth
    assert backbone.norm == "frozen"
    assert backbone.norm_epsilon == (0 if library == "torchvision" else 1e-5)
    assert backbone.stride_in_1x1 == (library == "detectron2")
    assert backbone.input.channels == ("bgr" if library == "detectron2" else "rgb")
    assert config.data.pad_multiple == (64 if "carafe" in name else 32)
    length = 24 if backbone.depth == 101 else 12
    assert config.training.schedule.length == length


def test_torchvision_with_counters_was_trained_with_their_epsilon():
    shapes = key_lists.read("torchvision_faster") | {"backbone.body.bn1.num_batches_tracked": ()}
    assert run_config(recognise(shapes)).model.backbone.norm_epsilon == 1e-5
    assert run_config(recognise(shapes), 0.0).model.backbone.norm_epsilon == 0
    frozen = recognise(key_lists.read("torchvision_faster"))
    assert run_config(frozen, 1e-3).model.backbone.norm_epsilon == 1e-3


def changed(name, **shapes):
    """A list with other shapes; an underscore in a name is a dot."""
    of_list = dict(key_lists.read(name))
    for pattern, shape in shapes.items():
        (key,) = (key for key in of_list if pattern in key.replace(".", "_"))
        of_list[key] = shape
    return of_list


def test_the_sizes_of_carafe_are_recognised():
    name = "neck_upsample_modules_0_content_encoder_weight"
    found = recognise(changed("mmdet_faster_carafe", **{name: (4 * 49, 32, 5, 5)}))
    assert found.config.neck.carafe == CarafeConfig(32, 5, 7)


@pytest.mark.parametrize(
    ("name", "part", "rows"),
    [
        ("mmdet_faster", "bbox_head_fc_reg_bias", "boxes"),
        ("detectron2_mask_r50", "bbox_pred_bias", "boxes"),
    ],
)
def test_boxes_for_all_classes_are_recognised(name, part, rows):
    assert recognise(changed(name, **{part: (4,)})).config.box.class_agnostic


def with_offsets(name, outputs, early=False, skipped=()):
    """A list of a deformable detector, with another number of outputs that predict offsets."""
    offset = ".conv2_offset." if early else ".conv2.conv_offset."
    return {
        key.replace(".conv2.conv_offset.", offset): (outputs, *shape[1:])
        if "_offset." in key
        else shape
        for key, shape in key_lists.read(name).items()
        if not any(part in key and "_offset." in key for part in skipped)
    }


@pytest.mark.parametrize("name", ["mmdet_faster_dcn", "detectron2_faster_dcn"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_deformable_stages_and_groups_are_recognised(name, groups):
    found = recognise(with_offsets(name, 27 * groups))
    backbone = found.config.backbone
    assert backbone.deformable_stages == (False, True, True, True)
    assert backbone.deformable_groups == groups
    of_groups = "" if groups == 1 else f" of {groups} groups"
    text = f"ResNet-50 with deformable convolutions{of_groups} in Res-3, Res-4, Res-5"
    assert text in found.describe()


def test_the_early_names_of_mmdet_are_recognised():
    found = recognise(with_offsets("mmdet_faster_dcn", 27, early=True))
    assert (found.library, found.names) == ("mmdet", "old")
    assert found.config == LISTS["mmdet_faster_dcn"][0]


GROUPED = "neck_upsample_modules_0_content_encoder_weight"
WRONG = {
    "classes": (
        changed("mmdet_faster", bbox_head_fc_cls_bias=(21,)),
        "mmdet with 21 rows of classes.* 81",
    ),
    "torchvision classes": (
        changed("torchvision_mask_old", cls_score_bias=(21,)),
        "torchvision with 21 rows of classes.* 91",
    ),
    "mmdet 1, by its boxes": (changed("mmdet_mask", bbox_head_fc_reg_bias=(324,)), "mmdet 1"),
    "groups of CARAFE": (
        changed("mmdet_faster_carafe", **{GROUPED: (400, 64, 3, 3)}),
        "400 logits",
    ),
    "offsets without masks": (
        with_offsets("mmdet_faster_dcn", 18),
        "mmdet with deformable convolutions without masks .DCNv1.* 18 outputs.* 27",
    ),
    "offsets without masks, of detectron2": (
        with_offsets("detectron2_faster_dcn", 18),
        "detectron2 with deformable convolutions without masks .DCNv1.* 18 outputs",
    ),
    "other offsets": (with_offsets("mmdet_faster_dcn", 50), "an unknown kind.* 50 outputs"),
    "plain blocks in a deformable stage": (
        with_offsets("mmdet_faster_dcn", 27, skipped=["layer3.0."]),
        r"deformable convolutions in Res-4, but not in layer3\.0",
    ),
    "depth": (
        {
            name: shape
            for name, shape in key_lists.read("mmdet_faster").items()
            if ".layer3.5." not in name
        },
        "5 blocks",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_sizes_are_refused(case):
    shapes, message = WRONG[case]
    with pytest.raises(WeightsError, match=message):
        recognise(shapes)


CONVOLUTION = (256, 256, 3, 3)
# Names in files of other networks, from the sources of their libraries.
OTHERS = {
    "a classifier": ["fc.weight", "layer1.0.conv1.weight"],
    "segmentation network of mmseg": ["backbone.stem.0.weight", "decode_head.conv_seg.weight"],
    "segmentation network of CSAILVision": ["ppm_conv.0.0.weight", "conv_last.1.weight"],
    "segmentation network of torchvision": [
        "backbone.conv1.weight",
        "classifier.0.convs.0.0.weight",
    ],
    "RetinaNet": ["backbone.body.conv1.weight", "head.classification_head.cls_logits.weight"],
    "one stage, such as": ["backbone.conv1.weight", "neck.x", "bbox_head.retina_cls.weight"],
    "of one stage": ["backbone.conv1.weight", "neck.x", "bbox_head.conv_centerness.weight"],
    "detector of one stage": ["bbox_head.fc_cls.weight", "bbox_head.transformer.x.weight"],
    "one stage": ["backbone.bottom_up.res2.0.conv1.weight", "head.cls_subnet.0.weight"],
    "C4 model": ["backbone.res2.0.conv1.weight", "roi_heads.res5.0.conv1.weight"],
    "DC5 model": ["backbone.res2.0.conv1.weight", "backbone.res5.0.conv1.weight"],
    "Keypoint R-CNN": ["backbone.body.conv1.weight", "roi_heads.keypoint_head.0.weight"],
    "Cascade R-CNN": ["neck.x", "roi_head.bbox_head.0.fc_cls.weight"],
    "deformable convolutions that": ["roi_head.x", "neck.fpn_convs.0.conv_offset.weight"],
    "3x3 convolutions of a ResNet": ["backbone.body.x", "backbone.body.layer2.0.conv2_offset.bias"],
    "of a ResNet of mmdet or detectron2": [
        "roi_head.x",
        "backbone.layer2.0.conv1.conv_offset.bias",
    ],
    "mmdet 1": ["neck.x", "bbox_head.shared_fcs.0.weight", "bbox_head.fc_cls.weight"],
    "MobileNet": ["backbone.body.0.0.weight", "roi_heads.box_head.fc6.weight"],
    "second version": ["backbone.body.conv1.weight", "backbone.fpn.inner_blocks.0.1.weight"],
    "no Faster R-CNN or Mask R-CNN with FPN": ["rpn_head.rpn_conv.weight"],
    "no ResNet": ["conv.weight"],
    "empty": [],
}


@pytest.mark.parametrize("network", OTHERS)
def test_other_networks_are_named_with_what_would_do(network):
    shapes = dict.fromkeys(OTHERS[network], CONVOLUTION)
    with pytest.raises(WeightsError, match=network) as raised:
        recognise(shapes)
    advice = "segmentation convert" if "segmentation" in network else "would fit"
    advice = "classification convert" if "classifier" in network else advice
    assert advice in str(raised.value)
    if advice != "would fit":
        assert re.search("ResNets of torchvision|UperNet and PSPNet of CSAIL", str(raised.value))


def test_a_file_of_another_library_than_given_is_refused():
    with pytest.raises(WeightsError, match="of torchvision, not of mmdet"):
        recognise(key_lists.read("torchvision_mask"), "mmdet")
