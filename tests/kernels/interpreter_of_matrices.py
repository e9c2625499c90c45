"""Additions to Pallas' interpreter for kernels on the tensor cores.

The interpreter lacks matrix products and reshaped references.
"""

import contextlib
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic_gpu import primitives
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax._src.state.indexing import NDIndexer, Slice
from jax._src.state.types import ReshapeTransform, TransposeTransform
from jax.interpreters import mlir


def _multiply(total, left, right):
    return total + jnp.dot(left.astype(jnp.float32), right.astype(jnp.float32), precision="highest")


mlir.register_lowering(
    primitives.mma_p, mlir.lower_fun(_multiply, multiple_results=False), platform="cpu"
)


def _selected(transforms, shape):
    """The flat indices of the elements that transforms select from an array of ``shape``."""
    indices = np.arange(math.prod(shape)).reshape(shape)
    for transform in jax.tree.map(int, transforms):
        match transform:
            case ReshapeTransform():
                indices = indices.reshape(transform.shape)
            case TransposeTransform():
                indices = indices.transpose(transform.permutation)
            case NDIndexer():
                indices = indices[
                    tuple(
                        slice(index.start, index.start + index.size * index.stride, index.stride)
                        if isinstance(index, Slice)
                        else index
                        for index in transform.indices
                    )
                ]
            case _:
                raise NotImplementedError(transform)
    return indices


def _box(indices, shape):
    """The box of an array with exactly the elements of ``indices``, or ``None``.

    Returns:
        The box, its shape, and the indices into the box, in the order of the selection.
    """
    slices, sizes, offsets = [], [], []
    for axis in np.unravel_index(indices, shape):
        values, offset = np.unique(axis, return_inverse=True)
        stride = int(values[1] - values[0]) if len(values) > 1 else 1
        if (np.diff(values) != stride).any():
            return None
        slices.append(Slice(int(values[0]), len(values), stride))
        sizes.append(len(values))
        offsets.append(offset.reshape(indices.shape))
    if math.prod(sizes) != indices.size:
        return None
    box = NDIndexer(tuple(slices), tuple(shape), ())
    return (box,), sizes, np.ravel_multi_index(offsets, sizes)


def _boxes(key, transforms):
    """Boxes that together have exactly the elements that transforms select.

    The interpreter must not see other accesses than those of the kernel.

    Returns:
        The shape of the selection and, for each box, the index of a part of the selection and what
        :func:`_box` returns for this part.
    """
    memory = gpu_callbacks._get_shared_memory()
    key = gpu_callbacks.HostAllocationKey.from_array(key)
    shape = memory.buffer_shape_and_dtype(key).shape
    indices = _selected(transforms, shape)
    parts, boxes = [()], []
    while parts:
        part = parts.pop()
        if found := _box(indices[part], shape):
            boxes.append((part, found))
        else:
            parts += [(*part, n) for n in range(indices.shape[len(part)])]
    return indices.shape, boxes


def _is_reshaped(transforms):
    return any(isinstance(transform, ReshapeTransform) for transform in transforms)


@contextlib.contextmanager
def reshaped_references():
    """Makes the interpreter read and write reshaped references."""
    get, swap = gpu_callbacks._get, gpu_callbacks._swap

    @gpu_callbacks.fail_on_exception
    @functools.wraps(get)
    def get_reshaped(token, location, thread, key, transforms, *others, **options):
        if not _is_reshaped(transforms):
            return get(token, location, thread, key, transforms, *others, **options)
        shape, boxes = _boxes(key, transforms)
        values = np.zeros(shape)
        for part, (box, _, indices) in boxes:
            token, found = get(token, location, thread, key, box, *others, **options)
            values = values.astype(found.dtype, copy=False)
            values[part] = found.reshape(-1)[indices]
        return token, values

    @gpu_callbacks.fail_on_exception
    @functools.wraps(swap)
    def swap_reshaped(token, location, thread, key, transforms, value, *others, **options):
        if not _is_reshaped(transforms):
            return swap(token, location, thread, key, transforms, value, *others, **options)
        shape, boxes = _boxes(key, transforms)
        old = np.empty(shape, value.dtype)
        for part, (box, sizes, indices) in boxes:
            values = np.empty(math.prod(sizes), value.dtype)
            values[indices] = value[part]
            values = values.reshape(sizes)
            token, found = swap(token, location, thread, key, box, values, *others, **options)
            old[part] = found.reshape(-1)[indices]
        return token, old

    with (
        mock.patch.object(gpu_callbacks, "_get", get_reshaped),
        mock.patch.object(gpu_callbacks, "_swap", swap_reshaped),
    ):
        yield
