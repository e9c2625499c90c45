"""Content-aware reassembly as functions of JAX arrays.

:func:`reassemble` applies given kernels (Eqn. 3 of the CARAFE++ paper). :func:`carafe` first
normalises predicted logits into kernels (section 3.2); :func:`reassembly_kernels` returns these
kernels. :func:`similarities` multiplies two maps as the derivative of a reassembly does. Each
function checks its arguments. All but :func:`reassembly_kernels` then choose an implementation, and
call the function that defines the derivatives.
"""

import dataclasses
import functools

import jax
from carafe_kernels.accumulation import accumulator_dtype
from carafe_kernels.choice import PORTABLE, choose
from carafe_kernels.geometry import Geometry, Resize
from carafe_kernels.names import Implementation, Normalizer, Scale
from carafe_kernels.normalizers import normalize
from carafe_kernels.plan import Plan
from carafe_kernels.resized_kernels import resized_kernels
from carafe_kernels.sharding import with_common_sharding
from jaxtyping import Array, Float

from carafe_jax._batch_axes import map_batch_axes
from carafe_jax._checks import (
    check_normalizer,
    checked_logits,
    checked_map,
    checked_offset_logits,
    checked_queries,
    checked_weights,
)
from carafe_jax._differentiation import contract
from carafe_jax._logit_differentiation import reassemble_logits
from carafe_jax._resizing import checked_resize


def reassemble(
    x: Float[Array, "*batch height width channels"],
    weights: Float[Array, "*batch out_height out_width groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    size: tuple[int, int] | None = None,
    scale: Scale | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "*batch out_height out_width channels"]:
    r"""Reassembles a feature map with one given kernel per output pixel (Eqn. 3).

    .. math::
        y_{i'j'c} = \sum_{n=0}^{k-1} \sum_{m=0}^{k-1}
            w_{i'j',\,g(c),\,nk+m} \; x_{i+n-r,\,j+m-r,\,c}

    Here :math:`i = \lfloor i' \cdot down / up \rfloor` and
    :math:`j = \lfloor j' \cdot down / up \rfloor` are the centre of the kernel,
    :math:`r = \lfloor k/2 \rfloor`, and :math:`g(c)` is the group of channel :math:`c`. Pixels
    outside the map count as zero. Sums are computed in float32, or in float64 if an argument is
    float64.

    With a ``size`` or a ``scale`` the map is rescaled by any rational scales :math:`s` of rows and
    :math:`t` of columns, and the centre is :math:`i = \lfloor i' / s \rfloor` and
    :math:`j = \lfloor j' / t \rfloor`. The paper has integer scales only.

    The function has reverse-mode derivatives of any order, and no forward-mode derivatives
    (``jax.jvp``, ``jax.hessian``).

    Arrays may be sharded over their batch axes, and maps over their channels. Then no array is
    gathered, and the gradient of weights that all channels share is summed over the devices. With
    several groups, each device must hold whole groups. Any other sharding gives the same result
    after communication: one operand is resharded to match the batch and channel axes of the other
    operand, and all other axes are gathered. There are two exceptions for ``"xla"``: the gradient
    of the weights gathers a map that is sharded over channels, and on a mesh with automatic axes
    XLA's partitioner decides.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(4.0).reshape(2, 2, 1)
    >>> weights = jnp.zeros((4, 4, 9)).at[..., 4].set(1.0)  # one-hot at the centre tap
    >>> reassemble(x, weights, kernel_size=3, up=2)[:, :, 0]  # nearest-neighbour upsampling
    Array([[0., 0., 1., 1.],
           [0., 0., 1., 1.],
           [2., 2., 3., 3.],
           [2., 2., 3., 3.]], dtype=float32)

    Args:
        x: feature map ``[..., H, W, C]`` in float16, bfloat16, float32 or float64, with any number
            of batch axes. A batch axis may have size 0.
        weights: reassembly kernels ``[..., H', W', groups * k * k]`` with the batch axes of ``x``
            and the size of the result. The last axis holds the groups one after the other, each
            with its taps in row-major order. The dtype is float16, bfloat16, float32 or float64,
            and may differ from the dtype of ``x``.
        kernel_size: side ``k`` of a kernel, odd; 5 in the paper.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups, each with kernels of its own; divides ``C``.
        size: height and width of the result, in place of ``up`` and ``down``. The scale of the rows
            is then ``size[0] / H``, and of the columns ``size[1] / W``. To halve an odd map, give
            the scale: 5 of 9 rows are not half of them.
        scale: scale of both axes, or of rows and of columns, in place of ``up`` and ``down``:
            positive integers or ``fractions.Fraction``. The result has ``ceil(H * scale)``
            rows. ``H`` and ``W`` must be known when the call is traced, also with ``size``.
        implementation: ``"xla"``, ``"mosaic_gpu"`` or ``None``. ``None`` takes the GPU kernels if
            every GPU of this process has been shown to compute this call correctly and faster with
            them, and JAX's default device is a GPU; otherwise it takes ``"xla"``. The choice is
            made when the call is traced. A program that is then lowered for another platform runs
            ``"xla"``.

    Returns:
        The rescaled map ``[..., H', W', C]`` in the dtype of ``x``. Its size is
        ``ceil(H * up / down)`` by ``ceil(W * up / down)``, unless ``size`` or ``scale`` is given.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot compute this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    x = checked_map(x, geometry)
    fixed = {"up": geometry.up, "down": geometry.down}
    resize = checked_resize(size, scale, x.shape[-3:-1], fixed)
    weights = checked_weights(x, weights, geometry, resize)
    geometry, resize = _in_cells(geometry, resize)

    def run(x: jax.Array, weights: jax.Array) -> jax.Array:
        plan = choose(implementation, geometry, x, weights.dtype, resize=resize)
        return _reassembled(plan, x, weights)

    return map_batch_axes(run, x, weights)


def carafe(
    x: Float[Array, "*batch height width channels"],
    logits: Float[Array, "*batch cell_rows cell_columns up**2*groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    normalizer: Normalizer = "softmax",
    size: tuple[int, int] | None = None,
    scale: Scale | None = None,
    offset_logits: Float[Array, "out_height out_width groups*kernel_size**2"] | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "*batch out_height out_width channels"]:
    """Normalises predicted logits into kernels and reassembles ``x`` with them (section 3).

    The logits have one pixel per *cell*, which is a block of ``down x down`` input pixels. Its
    channels hold the kernels of the ``up x up`` output pixels of the cell.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((1, 6, 6, 8))
    >>> carafe(x, jnp.zeros((1, 3, 3, 25)), down=2).shape
    (1, 3, 3, 8)
    >>> carafe(x, jnp.zeros((1, 6, 6, 100)), up=2).shape
    (1, 12, 12, 8)

    Arrays may be sharded as in :func:`reassemble`, with one difference: the kernels of a group are
    not contiguous in the channels of the logits. So the GPU kernels that read logits gather the
    channels of ``x`` if there are several groups.

    Args:
        x: feature map ``[..., H, W, C]`` in float16, bfloat16, float32 or float64, with any number
            of batch axes. A batch axis may have size 0.
        logits: predicted logits ``[..., ceil(H / down), ceil(W / down),
            up * up * groups * k * k]`` with the batch axes of ``x``. Channel
            ``((sy * up + sx) * groups + g) * k * k + tap`` belongs to the output pixel in row
            ``sy`` and column ``sx`` of the cell. The dtype is float16, bfloat16, float32 or
            float64, and may differ from the dtype of ``x``.
        kernel_size: side ``k`` of a kernel, odd; 5 in the paper.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups, each with kernels of its own; divides ``C``.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14). It is
            computed over all ``k * k`` taps, so a kernel at the border loses the weight of the taps
            that lie outside the map.
        size: height and width of the result. ``down`` must be 1, and ``up`` is only the factor of
            the logits: output ``i'`` of ``H'`` takes the kernel with row
            ``floor(i' * up * H / H')`` of the ``up * H`` predicted rows of kernels, and in the same
            way the column. To halve an odd map, give the scale: 5 of 9 rows are not half of them.
        scale: scale of both axes, or of rows and of columns: positive integers or
            ``fractions.Fraction``. The result has ``ceil(H * scale)`` rows, and output ``i'``
            takes the kernel with row ``floor(i' * up / scale)``. ``H`` and ``W`` must be known when
            the call is traced, also with ``size``.
        offset_logits: values that are added to the logits of each output before the normaliser,
            ``[H', W', groups * k * k]``; only with ``size`` or ``scale``. The dtype is float16,
            bfloat16, float32 or float64; the sum is computed in float32, or in float64 for float64
            logits.
        implementation: ``"xla"``, ``"mosaic_gpu"`` or ``None``. ``None`` takes the GPU kernels if
            every GPU of this process has been shown to compute this call correctly and faster with
            them, and JAX's default device is a GPU; otherwise it takes ``"xla"``. The choice is
            made when the call is traced. A program that is then lowered for another platform runs
            ``"xla"``.

    Returns:
        The rescaled map ``[..., H', W', C]`` in the dtype of ``x``. Its size is
        ``ceil(H * up / down)`` by ``ceil(W * up / down)``, unless ``size`` or ``scale`` is given.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot compute this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    check_normalizer(normalizer)
    x = checked_map(x, geometry)
    resize = checked_resize(size, scale, x.shape[-3:-1], {"down": geometry.down})
    logits = checked_logits(x, logits, geometry)
    offset_logits = checked_offset_logits(offset_logits, geometry, resize)

    def run(x: jax.Array, logits: jax.Array) -> jax.Array:
        plan = choose(implementation, geometry, x, logits.dtype, normalizer)
        sharded_x, logits = with_common_sharding(x, logits, groups, "logits")
        if plan.normalizer is not None:
            return reassemble_logits(plan, {"x": sharded_x, "logits": logits})
        weights = normalize(logits, geometry, plan.size, normalizer)
        return _reassembled(plan, x, weights)

    def run_resized(resize: Resize, x: jax.Array, logits: jax.Array) -> jax.Array:
        if offset_logits is None and resize.crops(geometry):
            plan = choose(implementation, geometry, x, logits.dtype, normalizer)
            if plan.implementation != PORTABLE:  # the GPU kernels compute whole cells
                height, width = resize.size
                return run(x, logits)[:, :height, :width]
        _, logits = with_common_sharding(x, logits, groups, "logits")
        weights = resized_kernels(logits, geometry, resize, normalizer, offset_logits)
        in_cells, remaining = _in_cells(geometry, resize)
        plan = choose(implementation, in_cells, x, weights.dtype, resize=remaining)
        return _reassembled(plan, x, weights)

    target = run if resize is None else functools.partial(run_resized, resize)
    return map_batch_axes(target, x, logits)


def _in_cells(geometry: Geometry, resize: Resize | None) -> tuple[Geometry, Resize | None]:
    """The geometry of a contraction, and the axes if its outputs are not all of the outputs."""
    if resize is None:
        return geometry, None
    in_cells = resize.in_cells(geometry)
    if in_cells is None:
        return dataclasses.replace(geometry, up=1, down=1), resize
    whole = in_cells.output_size(resize.rows.sources), in_cells.output_size(resize.columns.sources)
    return in_cells, None if whole == resize.size else resize


def _reassembled(plan: Plan, x: jax.Array, weights: jax.Array) -> jax.Array:
    x, weights = with_common_sharding(x, weights, plan.geometry.groups, "weights")
    return contract(plan, "y", {"x": x, "weights": weights})


def reassembly_kernels(
    x: Float[Array, "*batch height width channels"],
    logits: Float[Array, "*batch cell_rows cell_columns up**2*groups*kernel_size**2"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    normalizer: Normalizer = "softmax",
    size: tuple[int, int] | None = None,
    scale: Scale | None = None,
    offset_logits: Float[Array, "out_height out_width groups*kernel_size**2"] | None = None,
) -> Float[Array, "*batch out_height out_width groups*kernel_size**2"]:
    """Returns the kernels that :func:`carafe` applies to ``x``, one per output pixel.

    Args:
        x: feature map ``[..., H, W, C]`` in float16, bfloat16, float32 or float64. Only its shape
            and its sharding matter.
        logits: predicted logits ``[..., ceil(H / down), ceil(W / down),
            up * up * groups * k * k]`` with the batch axes of ``x``. Channel
            ``((sy * up + sx) * groups + g) * k * k + tap`` belongs to the output pixel in row
            ``sy`` and column ``sx`` of the cell. The dtype is float16, bfloat16, float32 or
            float64, and may differ from the dtype of ``x``.
        kernel_size: side ``k`` of a kernel, odd; 5 in the paper.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups, each with kernels of its own; divides ``C``.
        normalizer: ``"softmax"``, ``"sigmoid"`` or ``"sigmoid_normalized"`` (Table 14).
        size: height and width of the result. ``down`` must be 1, and ``up`` is only the factor of
            the logits: output ``i'`` of ``H'`` takes the kernel with row
            ``floor(i' * up * H / H')`` of the ``up * H`` predicted rows of kernels, and in the same
            way the column. To halve an odd map, give the scale: 5 of 9 rows are not half of them.
        scale: scale of both axes, or of rows and of columns: positive integers or
            ``fractions.Fraction``. The result has ``ceil(H * scale)`` rows, and output ``i'``
            takes the kernel with row ``floor(i' * up / scale)``. ``H`` and ``W`` must be known when
            the call is traced, also with ``size``.
        offset_logits: values that are added to the logits of each output before the normaliser,
            ``[H', W', groups * k * k]``; only with ``size`` or ``scale``. The dtype is float16,
            bfloat16, float32 or float64; the sum is computed in float32, or in float64 for float64
            logits.

    Returns:
        Weights for :func:`reassemble`, ``[..., H', W', groups * k * k]`` with the size of its
        result, in float32, or in float64 for float64 logits.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    check_normalizer(normalizer)
    x = checked_map(x, geometry)
    resize = checked_resize(size, scale, x.shape[-3:-1], {"down": geometry.down})
    logits = checked_logits(x, logits, geometry)
    offset_logits = checked_offset_logits(offset_logits, geometry, resize)

    def run(x: jax.Array, logits: jax.Array) -> jax.Array:
        _, logits = with_common_sharding(x, logits, groups, "logits")
        if resize is not None:
            return resized_kernels(logits, geometry, resize, normalizer, offset_logits)
        return normalize(logits, geometry, (x.shape[1], x.shape[2]), normalizer)

    return map_batch_axes(run, x, logits)


def similarities(
    x: Float[Array, "*batch height width channels"],
    queries: Float[Array, "*batch out_height out_width channels"],
    *,
    kernel_size: int = 5,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    size: tuple[int, int] | None = None,
    scale: Scale | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "*batch out_height out_width groups*kernel_size**2"]:
    r"""Returns the inner products of each query with the pixels that its kernel would read.

    .. math::
        s_{i'j',\,g,\,nk+m} = \sum_{c \in g} q_{i'j'c} \; x_{i+n-r,\,j+m-r,\,c}

    The centre :math:`(i, j)` of each output and the radius :math:`r` are those of
    :func:`reassemble`. Pixels outside the map count as zero. The products are the derivative of a
    reassembly of ``x`` with respect to its weights. As logits, they give kernels that depend on two
    maps, which the paper does not have. Sums are computed in float32, or in float64 for float64
    maps. The function has reverse-mode derivatives of any order, and arrays may be sharded as in
    :func:`reassemble`.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(1.0, 4.0).reshape(1, 3, 1)
    >>> similarities(x, 2 * jnp.ones((1, 3, 1)), kernel_size=3)[0, :, 3:6]  # the middle row of taps
    Array([[0., 2., 4.],
           [2., 4., 6.],
           [4., 6., 0.]], dtype=float32)

    Args:
        x: feature map ``[..., H, W, C]`` in float16, bfloat16, float32 or float64, with any number
            of batch axes. A batch axis may have size 0.
        queries: a vector for each output, ``[..., H', W', C]`` with the batch axes and the dtype of
            ``x``. Its size is ``ceil(H * up / down)`` by ``ceil(W * up / down)``, unless ``size``
            or ``scale`` is given.
        kernel_size: side ``k`` of a kernel, odd.
        up: numerator of the scale, at least 1.
        down: denominator of the scale, at least 1.
        groups: number of channel groups. The products of each group are summed; divides ``C``.
        size: height and width of ``queries``, in place of ``up`` and ``down``. The scale of the
            rows is then ``size[0] / H``, and of the columns ``size[1] / W``. To halve an odd map,
            give the scale: 5 of 9 rows are not half of them.
        scale: scale of both axes, or of rows and of columns, in place of ``up`` and ``down``:
            positive integers or ``fractions.Fraction``. The result has ``ceil(H * scale)``
            rows. ``H`` and ``W`` must be known when the call is traced, also with ``size``.
        implementation: ``"xla"``, ``"mosaic_gpu"`` or ``None``. ``None`` takes the GPU kernels if
            every GPU of this process has been shown to compute this call correctly and faster with
            them, and JAX's default device is a GPU; otherwise it takes ``"xla"``. The choice is
            made when the call is traced. A program that is then lowered for another platform runs
            ``"xla"``.

    Returns:
        The products ``[..., H', W', groups * k * k]`` in float32, or in float64 for float64 maps.
        The last axis holds the groups one after the other, each with its taps in row-major order.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the named implementation cannot compute this call.
    """
    geometry = Geometry(kernel_size, up, down, groups)
    x = checked_map(x, geometry)
    fixed = {"up": geometry.up, "down": geometry.down}
    resize = checked_resize(size, scale, x.shape[-3:-1], fixed)
    queries = checked_queries(x, queries, geometry, resize)
    geometry, resize = _in_cells(geometry, resize)
    dtype = accumulator_dtype(x.dtype)

    def run(x: jax.Array, queries: jax.Array) -> jax.Array:
        plan = choose(implementation, geometry, x, dtype, resize=resize)
        x, queries = with_common_sharding(x, queries, groups, "map")
        return contract(plan, "weights", {"x": x, "y": queries})

    return map_batch_axes(run, x, queries)


# Their public home, which tracebacks, pickles and the documentation show.
for _function in (reassemble, carafe, reassembly_kernels, similarities):
    _function.__module__ = "carafe_jax"
