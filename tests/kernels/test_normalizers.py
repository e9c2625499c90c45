import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels.geometry import Geometry
from carafe_kernels.normalizers import (
    NORMALIZERS,
    normalize,
    tap_logit_gradients,
    tap_weights,
)

from tests.kernels import oracle
from tests.kernels.cases import Case

CASES = [
    Case(3),
    Case(3, up=2, groups=2, size=(3, 4)),
    Case(3, down=2, groups=2, size=(5, 4)),
    Case(5, up=3, down=2, size=(3, 5)),
    Case(3, up=2, down=4, size=(7, 3)),
]
SUMMING_TO_ONE = ["softmax", "sigmoid_normalized"]

every_normalizer = pytest.mark.parametrize("normalizer", sorted(NORMALIZERS))


def random_logits(case, dtype=np.float32):
    return np.random.default_rng(0).normal(scale=3, size=case.logits_shape).astype(dtype)


def kernels_of(case, logits, normalizer):
    weights = normalize(jnp.asarray(logits), Geometry(**case.options), case.size, normalizer)
    return weights.reshape(*weights.shape[:-1], case.groups, case.kernel_size**2)


def test_the_oracle_has_the_same_normalizers():
    assert NORMALIZERS.keys() == oracle.NORMALIZERS.keys()


@every_normalizer
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_oracle(case, normalizer):
    logits = random_logits(case)
    weights = normalize(jnp.asarray(logits), Geometry(**case.options), case.size, normalizer)
    assert weights.shape == case.weights_shape
    expected = oracle.kernels(logits, case.size, normalizer, **case.options)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("normalizer", SUMMING_TO_ONE)
def test_every_kernel_sums_to_one_over_all_taps(normalizer):
    case = Case(5, up=2, groups=2, size=(2, 3))
    kernels = kernels_of(case, random_logits(case), normalizer)
    np.testing.assert_allclose(kernels.sum(axis=-1), np.ones(kernels.shape[:-1]), rtol=1e-6)


@every_normalizer
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_give_finite_kernels_and_gradients(normalizer, logit):
    case = Case(3, size=(2, 2))
    rng = np.random.default_rng(0)
    logits = jnp.asarray(logit * rng.uniform(0.9, 1.1, case.logits_shape), jnp.float32)
    cotangent = rng.standard_normal((*case.logits_shape[:3], 1, 9)).astype(np.float32)
    kernels, vjp = jax.vjp(lambda logits: kernels_of(case, logits, normalizer), logits)
    assert np.isfinite(kernels).all()
    assert np.isfinite(vjp(cotangent)[0]).all()
    if normalizer in SUMMING_TO_ONE:
        np.testing.assert_allclose(kernels.sum(axis=-1), np.ones(kernels.shape[:-1]), rtol=1e-5)


@every_normalizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_kernels_are_computed_in_float32(normalizer, dtype):
    case = Case(3, up=2, size=(2, 3))
    logits = jnp.asarray(random_logits(case), dtype)
    kernels = kernels_of(case, logits, normalizer)
    assert kernels.dtype == jnp.float32
    np.testing.assert_array_equal(kernels, kernels_of(case, logits.astype(jnp.float32), normalizer))


@every_normalizer
def test_float64_logits_keep_their_precision(normalizer):
    case = Case(3, up=2, size=(2, 3))
    with jax.enable_x64(True):
        logits = random_logits(case, np.float64)
        weights = normalize(jnp.asarray(logits), Geometry(**case.options), case.size, normalizer)
        assert weights.dtype == jnp.float64
        expected = oracle.kernels(logits, case.size, normalizer, **case.options)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)


# Separate arrays for each tap


@every_normalizer
def test_normalisers_of_separate_taps_equal_normalisers_along_an_axis(normalizer):
    rng = np.random.default_rng(0)
    logits = jnp.float32(rng.standard_normal((7, 9)) * np.geomspace(1e-3, 1e3, 7)[:, None])
    cotangents = jnp.float32(rng.standard_normal(logits.shape))
    desired, vjp = jax.vjp(NORMALIZERS[normalizer], logits)
    weights = np.stack(tap_weights(list(logits.T), normalizer), -1)
    np.testing.assert_allclose(weights, desired, rtol=1e-5, atol=1e-7)
    gradients = tap_logit_gradients(list(logits.T), list(cotangents.T), normalizer)
    np.testing.assert_allclose(np.stack(gradients, -1), vjp(cotangents)[0], rtol=1e-4, atol=1e-6)
