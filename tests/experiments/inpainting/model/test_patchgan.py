import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.inpainting.model.patchgan import PatchGAN
from experiments.inpainting.model.patchgan_config import PatchGANConfig
from tests.experiments.variables import scaled_variables

pytestmark = pytest.mark.usefixtures("few_optimizations")


def build(config, shape=(2, 96, 96, 4)):
    model = PatchGAN(config)
    x = jax.random.normal(jax.random.key(1), shape)
    return model, scaled_variables(model, x), x


def test_a_logit_depends_on_a_patch_of_70_pixels():
    """Reference 20 calls it the 70x70 PatchGAN."""
    model, variables, x = build(PatchGANConfig(width=4, norm="none"), (1, 96, 96, 4))
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)[0, 6, 6]))(x)
    patch = np.asarray(jnp.abs(gradient).sum((0, 3)) > 0)
    rows, columns = np.nonzero(patch.any(1))[0], np.nonzero(patch.any(0))[0]
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == 70
    centre = 6 * 8 + 3.5  # of the logit's block of 8x8 pixels
    assert abs((rows[0] + rows[-1]) / 2 - centre) <= 0.5


@pytest.mark.parametrize(("size", "layers"), [((32, 32), 3), ((33, 47), 3), ((17, 9), 2)])
def test_there_is_one_logit_for_each_block_of_pixels(size, layers):
    model, variables, x = build(PatchGANConfig(width=2, layers=layers), (1, *size, 4))
    shape = jax.eval_shape(model.apply, variables, x).shape
    assert shape == (1, *(-(-n // 2**layers) for n in size))


def test_the_logits_of_an_image_do_not_depend_on_other_images():
    model, variables, x = build(PatchGANConfig(width=4), (3, 32, 32, 4))
    apply = jax.jit(model.apply)
    together, alone = apply(variables, x), apply(variables, x[1:2])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-5)


def test_spectral_norm_divides_by_the_largest_singular_value():
    model, variables, x = build(
        PatchGANConfig(width=4, layers=1, norm="none", spectral=True), (1, 16, 16, 4)
    )
    assert not any("norm_" in name for name in variables["params"])

    @jax.jit
    def update(variables):
        _, changed = model.apply(variables, x, update=True, mutable=["batch_stats"])
        return {**variables, **changed}

    before = variables["batch_stats"]
    for _ in range(50):
        variables = update(variables)
    for name, statistics in variables["batch_stats"].items():
        layer = variables["params"][name.removesuffix("_spectral")]
        kernel = np.asarray(layer["kernel"], np.float64)
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        (sigma,) = (v for k, v in statistics.items() if k.endswith("sigma"))
        np.testing.assert_allclose(sigma, largest, rtol=1e-2)
    # By default there is no update.
    _, changed = model.apply(variables, x, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    assert jax.tree.structure(before) == jax.tree.structure(changed["batch_stats"])
