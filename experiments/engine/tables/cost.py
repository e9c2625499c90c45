"""Counts the parameters and the floating-point operations of a model without running it."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

# One operation for each element of the result.
_ARITHMETIC = {"add", "add_any", "sub", "mul", "div", "neg", "abs", "max", "min", "square"}
_POWERS = {"integer_pow", "pow", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log1p"}
_ELEMENTWISE = _ARITHMETIC | _POWERS | {"logistic", "tanh", "erf", "sin", "cos"}
# One operation for each element of the input.
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cumsum", "cumprod"}
# One operation for each element of each window.
_WINDOW_REDUCTIONS = {"reduce_window_sum", "reduce_window_max", "reduce_window_min"}


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one call of a module.

    Attributes:
        parameters: number of scalars in the collection ``params``.
        flops: number of floating-point operations for the whole batch; see :func:`cost`.
    """

    parameters: int
    flops: int


def cost(module: nn.Module, *inputs: Any, **options: Any) -> Cost:
    """Counts parameters and operations of ``module`` for inputs of given shapes.

    Operations are counted in the traced program, so that the same rules hold for every layer and
    every device:

    - 2 for each multiply-add of a convolution or a matrix product, including taps in the padding;
    - 1 for each element of an elementwise result, also of powers and exponentials;
    - 1 for each term of a sum or maximum, over an axis or a window;
    - 0 for operations that move, compare or convert data.

    A reassembly has ``k * k`` products and their sum, ``2 * k * k - 1`` operations for each channel
    of an output pixel. Bilinear interpolation is a product with matrices; all their elements count,
    although most are zero, because they are computed. XLA's own cost analysis counts a different
    program on each backend, and ignores taps in the padding.

    >>> cost(nn.Dense(5, use_bias=False), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    Cost(parameters=15, flops=60)

    Args:
        module: Linen module.
        inputs: inputs of the module, as arrays or as ``jax.ShapeDtypeStruct``.
        options: static keyword arguments of the call, such as ``train`` or ``method``.

    Raises:
        NotImplementedError: the program has a loop of unknown length or a custom kernel.
    """
    # On a GPU CARAFE++ may be a custom kernel, whose operations cannot be counted.
    with jax.default_device("cpu"):
        variables = jax.eval_shape(
            lambda key, *arrays: module.init(key, *arrays, **options), jax.random.key(0), *inputs
        )
        call = functools.partial(module.apply, mutable=["batch_stats"], **options)
        jaxpr = jax.make_jaxpr(call)(variables, *inputs).jaxpr
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    return Cost(parameters, _flops(jaxpr))


def _flops(jaxpr: Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name in ("while", "pallas_call"):
        raise NotImplementedError(
            f"cost needs a program of XLA operations and loops of known length, got {name!r}"
        )
    counts = [_flops(body) for body in jaxprs_in_params(params)]
    if counts:  # a call, branches, or a loop
        if name == "scan":
            return params["length"] * sum(counts)
        return max(counts) if name == "cond" else sum(counts)
    shapes = [variable.aval.shape for variable in equation.invars]
    result = equation.outvars[0].aval
    if not jnp.issubdtype(result.dtype, jnp.floating):
        return 0
    size = math.prod(result.shape)
    if name == "conv_general_dilated":
        features = params["dimension_numbers"].rhs_spec[0]
        taps = math.prod(shapes[1]) // shapes[1][features]
        # A transposed convolution has zeros between its inputs, whose products are not counted.
        return 2 * size * taps // math.prod(params["lhs_dilation"])
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * size * math.prod(shapes[0][axis] for axis in contracted)
    if name in _WINDOW_REDUCTIONS:
        return size * math.prod(params["window_dimensions"])
    if name in _REDUCTIONS:
        return math.prod(shapes[0])
    return size if name in _ELEMENTWISE else 0
