import jax
import numpy as np
import pytest

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import source_weights
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import build_generator
from experiments.inpainting.pathways import generator_pathways

SIZE = (13, 22)  # odd at several levels
BOTH = {"downsampler": "carafe", "upsampler": "carafe"}


def pathways_of(size=SIZE, **options):
    config = GeneratorConfig(width=2, norm="none", **options)
    model = build_generator(config, np.float32, None)
    inputs = np.zeros((1, *size, 3), np.float32), np.zeros((1, *size, 1), np.float32)

    def found():
        variables = model.init(jax.random.key(0), *inputs)
        return collect_reassemblies(model, variables, *inputs)[1]

    # Without running the network: pathways depend on names and sizes alone.
    steps = jax.tree.map(
        lambda kernels: np.full(kernels.shape[1:], 1 / 25, np.float32), jax.eval_shape(found)
    )
    return generator_pathways(config, steps, size)


@pytest.mark.parametrize(
    ("architecture", "convolution"),
    [
        ("global_local", "plain"),
        ("global_local", "partial"),
        ("unet", "plain"),
        ("unet", "partial"),
    ],
)
def test_pathways_lead_from_the_input_to_the_coarsest_map_and_from_there_to_the_finest(
    architecture, convolution
):
    down, up = pathways_of(architecture=architecture, convolution=convolution, **BOTH)
    assert [step.name.split("/")[0] for step in down.steps] == ["down_1", "down_2"]
    assert [step.name.split("/")[0] for step in up.steps] == ["up_2", "up_1"]
    assert (down.source_size, down.target_size) == (SIZE, (4, 6))
    assert (up.source_size, up.target_size) == ((4, 6), SIZE)
    assert (
        (down.source_stride, down.target_stride) == (up.target_stride, up.source_stride) == (1, 4)
    )
    weights = source_weights(down.steps, np.array([[2, 3]]))
    assert 0.8 < weights.sum() < 1  # some taps lie beyond the border
    assert weights[0, 8, 12] > 0  # the centre


def test_the_longest_pathway_leads_from_the_input_to_the_finest_map():
    pathways = pathways_of(**BOTH)
    longest = pathways.longest
    assert longest.steps == (*pathways.down.steps, *pathways.up.steps)
    assert (longest.source_size, longest.target_size) == (SIZE, SIZE)
    assert (longest.source_stride, longest.target_stride) == (1, 1)
    assert source_weights(longest.steps, np.array([[5, 6]])).shape == (1, *SIZE)
    assert pathways._replace(down=None).longest is pathways.up
    assert pathways._replace(up=None).longest is pathways.down


def test_interpolation_has_fixed_kernels_and_a_strided_convolution_has_none():
    down, up = pathways_of(upsampler="nearest")
    assert down is None
    weights = source_weights(up.steps, np.array([[11, 7]]))
    assert np.argwhere(weights[0] > 0).tolist() == [[2, 1]]
    assert up.target_size == SIZE
    assert pathways_of(upsampler="pixel_shuffle") == (None, None)
