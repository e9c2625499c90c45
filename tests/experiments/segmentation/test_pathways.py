import jax
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.segmenter import Segmenter
from experiments.segmentation.pathways import check_has_pathways, observe


def observed(fpn="bilinear", downsampler="strided", architecture="upernet", output_stride=32):
    """Shapes of the pathways, without running the network."""
    backbone = ResNetConfig(18, downsampler, width=2, output_stride=output_stride)
    config = SegmenterConfig(architecture, backbone, channels=4, fpn=fpn, norm="batch")
    model = Segmenter(config, 3)

    def pathways():
        x = np.zeros((1, 64, 96, 3), np.float32)
        variables = model.init(jax.random.key(0), x)
        state = {"params": variables["params"], "model_state": variables["batch_stats"]}
        return observe(model, state, x.astype(np.uint8))

    return jax.eval_shape(pathways)


def test_the_top_down_pathway_of_upernet_leads_from_p5_to_p2():
    up, down = observed(fpn="carafe", downsampler="carafe")
    assert [step.name for step in up.steps] == [f"head/fpn_upsample_{i}" for i in (5, 4, 3)]
    assert (up.source_size, up.target_size) == ((2, 3), (16, 24))
    assert [step.kernels.shape for step in up.steps] == [(4, 6, 25), (8, 12, 25), (16, 24, 25)]
    assert len(down.steps) == 4
    assert (down.source_stride, down.target_stride, down.target_size) == (2, 32, (2, 3))


def test_interpolation_has_fixed_kernels():
    up, down = observed(fpn="bilinear")
    assert down is None
    assert [step.name for step in up.steps] == ["bilinear"] * 3
    assert (up.source_size, up.target_size) == ((2, 3), (16, 24))


def test_a_network_with_dilations_downsamples_less():
    up, down = observed(downsampler="carafe", architecture="pspnet", output_stride=8)
    assert up is None
    assert [step.name for step in down.steps] == ["backbone/pool", "backbone/layer2_0/resample"]
    assert down.target_stride == 8


@pytest.mark.parametrize(
    "config",
    [
        SegmenterConfig("pspnet"),
        SegmenterConfig(fpn="deconvolution", backbone=ResNetConfig(50, "max_pool")),
    ],
)
def test_a_network_without_known_source_weights_is_refused(config):
    found = (
        rf"maps.*got {config.architecture} with {config.fpn!r} and {config.backbone.downsampler!r}"
    )
    with pytest.raises(ConfigError, match=found):
        check_has_pathways(config)
