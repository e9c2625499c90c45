"""Compares the modulated deformable convolution with torchvision's operator."""

import functools
import importlib

import jax
import numpy as np
import pytest

from experiments.models.deformable_convolution import modulated_deformable_convolution


def random_operands(deformable_groups, groups):
    """x, offsets, masks, kernel and cotangent for stride 2, padding 3 and dilation 2."""
    rng = np.random.default_rng(0)
    samples = 9 * deformable_groups
    return [
        np.asarray(array, np.float32)
        for array in (
            rng.normal(size=(2, 9, 8, 8)),
            rng.normal(scale=3, size=(2, 6, 5, 2 * samples)),
            rng.uniform(size=(2, 6, 5, samples)),
            rng.normal(size=(3, 3, 8 // groups, 6)),
            rng.normal(size=(2, 6, 5, 6)),
        )
    ]


def ours(arrays, **settings):
    """The result and the gradients of x, offsets, masks and kernel."""
    *operands, dy = arrays
    function = functools.partial(modulated_deformable_convolution, **settings)

    def run(*operands):
        y, pullback = jax.vjp(function, *operands)
        return y, *pullback(dy)

    return jax.jit(run)(*operands)


def of_torchvision(arrays, stride=1, padding=0, dilation=1):
    torch, ops = (importlib.import_module(name) for name in ("torch", "torchvision.ops"))
    x, offsets, masks, kernel, dy = arrays
    orders = [(0, 3, 1, 2)] * 3 + [(3, 2, 0, 1)]
    x, offsets, masks, kernel = (
        torch.tensor(array.transpose(order).copy(), requires_grad=True)
        for array, order in zip((x, offsets, masks, kernel), orders, strict=True)
    )
    y = ops.deform_conv2d(
        x, offsets, kernel, stride=stride, padding=padding, dilation=dilation, mask=masks
    )
    y.backward(torch.tensor(dy.transpose(orders[0]).copy()))
    back = [(0, 2, 3, 1)] * 4 + [(2, 3, 1, 0)]
    results = (y.detach(), x.grad, offsets.grad, masks.grad, kernel.grad)
    return [result.numpy().transpose(order) for result, order in zip(results, back, strict=True)]


@pytest.mark.torch
@pytest.mark.parametrize("deformable_groups", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_values_and_gradients(deformable_groups, groups):
    arrays = random_operands(deformable_groups, groups)
    settings = {"stride": 2, "padding": 3, "dilation": 2}
    expected = of_torchvision(arrays, **settings)
    found = ours(arrays, **settings, groups=groups, deformable_groups=deformable_groups)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.torch
def test_only_the_gradient_of_an_offset_to_exactly_minus_one_differs():
    # The map and the masks are those of mmcv's vector. torchvision has no guard in this gradient.
    x = np.tile(np.arange(1, 4, dtype=np.float32)[:, None], (1, 3, 1, 1))
    offsets, masks = np.zeros((1, 4, 4, 8), np.float32), np.full((1, 4, 4, 4), 0.5, np.float32)
    kernel, dy = np.ones((2, 2, 1, 1), np.float32), np.ones((1, 4, 4, 1), np.float32)
    arrays = [x, offsets, masks, kernel, dy]
    found, expected = ours(arrays, padding=1), of_torchvision(arrays, padding=1)
    for number in (0, 1, 3, 4):
        np.testing.assert_allclose(found[number], expected[number], atol=1e-6)
    sums = [gradient.sum(axis=(0, 1, 2)) for gradient in (found[2], expected[2])]
    np.testing.assert_array_equal(sums[0], [-3, -1.5] * 4)
    np.testing.assert_array_equal(sums[1], [0, 0, 0, -1.5, -3, 0, -3, -1.5])
