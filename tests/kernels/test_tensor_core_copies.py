"""Where blocks of the gradients on the tensor cores begin to copy, without running them."""

import contextlib
from unittest import mock

import jax.numpy as jnp
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import (
    blocks,
    input_gradient_bands_kernel,
    weight_gradient_products_kernel,
)
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.source_bands import SourceBands
from jax.experimental.pallas import mosaic_gpu as plgpu

from tests.kernels.tensor_cores import BFLOAT16


class FirstWaitError(Exception):
    pass


class Array:
    """Stands for a reference; its slices are the last index."""

    def __init__(self, index=None):
        self.index = index

    @property
    def at(self):
        return self

    def __getitem__(self, index):
        return Array(index)

    def reshape(self, *shape):
        return self

    def transpose(self, order):
        return self


def copies_before_the_first_wait(work, block):
    """The starts of the copies of a block into shared memory, until it waits for one."""
    found = []

    def copy(source, *arguments, **options):
        starts = (getattr(index, "start", index) for index in source.index)
        found.append([int(start) for start in starts])

    patches = {"copy_gmem_to_smem": copy, "barrier_wait": mock.Mock(side_effect=FirstWaitError)}
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(plgpu, name, value))
        stack.enter_context(mock.patch.object(blocks, "traced_zero", return_value=jnp.int32(0)))
        stack.enter_context(mock.patch.object(SourceBands, "clear"))
        buffers = [Array()] * sum(map(len, work.memory))
        operands = [Array()] * len(work.operands)
        barriers = [Array()] * len(work.barriers)
        with pytest.raises(FirstWaitError):
            work.run(jnp.int32(block), operands, Array(), buffers, barriers)
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("block", [0, 3, 7])
def test_blocks_copy_the_pixels_around_their_own(block, padded):
    """The oracle tests only positions in padded maps, because the interpreter needs them."""
    problem = Problem(Geometry(5, 2), 2, (5, 14), 64, BFLOAT16, BFLOAT16, "softmax")
    options = mosaic_gpu.Settings(padded_maps=padded)
    shapes = (2, 5, 14, 64), (2, 5, 1, 14, 100), (2, 10, 28, 64)
    x, logits, y = (jnp.zeros(shape, BFLOAT16) for shape in shapes)
    # Two rows and two columns of blocks of 4 x 8 pixels. Each reads from two pixels before it.
    b, row, column = block // 4, 4 * (block // 2 % 2), 8 * (block % 2)
    before = 0 if padded else 2
    *cells, first, second, third = copies_before_the_first_wait(
        input_gradient_bands_kernel.input_gradient(logits, y, problem, options), block
    )
    assert {tuple(each[:2]) for each in cells} == {(b, row - before)}
    assert min(each[3] for each in cells) == 100 * (column - before)
    targets = [b, 2 * (row - before), 2 * (column - before), 0]
    assert [first, second, third] == [
        [*targets[:2], targets[2] + 8 * strip, 0] for strip in range(3)
    ]
    # Blocks of the weight gradient have 8 x 4 cells. Copies of their logits move pairs of cells.
    b, row, column = block // 4, 0, 4 * (block % 4)
    *cells, sources, targets = copies_before_the_first_wait(
        weight_gradient_products_kernel.weight_gradient(x, y, logits, problem, options), block
    )
    assert cells == [[b, row, 0, column // 2]]
    assert sources == [b, row - before, column - before, 0]
    assert targets == [b, 2 * row, 2 * column, 0]
