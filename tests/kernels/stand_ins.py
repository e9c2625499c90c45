"""XLA in the place of the GPU kernels: as opaque to JAX as they are, and a CPU can run it."""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu, xla
from carafe_kernels.mosaic_gpu import calls
from carafe_kernels.normalizers import normalize

from carafe_jax import differentiation, logit_differentiation

FLOAT32 = jnp.dtype(jnp.float32)


def shape_of_y(x, geometry):
    _, *size, channels = x.shape
    return (*map(geometry.output_size, size), channels)


class StandIns:
    """The functions of `mosaic_gpu`, which note what one device gets: result and shapes."""

    def __init__(self):
        self.calls = []

    def run_several(self, slot, function, operands, results, geometry, settings):
        def kernels(*arguments):
            *parts, geometry = arguments
            self.calls.append((slot, *(part.shape for part in parts)))
            out = function(*parts, geometry)
            return tuple(
                value.astype(result.dtype) for value, result in zip(out, results, strict=True)
            )

        return calls.call_kernels(kernels, operands, results, geometry, settings)

    def run(self, slot, function, roles, arrays, shape, dtype, geometry, settings):
        *of_operands, of_result = roles
        operands = tuple(zip(of_operands, arrays, strict=True))
        results = (calls.Result(of_result, shape, dtype),)
        (out,) = self.run_several(
            slot, lambda *parts: (function(*parts),), operands, results, geometry, settings
        )
        return out

    def forward(self, x, weights, geometry, settings):
        def function(x, weights, geometry):
            return xla.forward(x, weights, geometry, FLOAT32)

        shape, roles = shape_of_y(x, geometry), ("map", "weights", "map")
        return self.run("y", function, roles, (x, weights), shape, x.dtype, geometry, settings)

    def input_gradient(self, weights, y, geometry, size, settings):
        def function(weights, y, geometry):
            return xla.input_gradient(weights, y, geometry, size, FLOAT32)

        shape, roles = (*size, y.shape[3]), ("weights", "map", "map")
        return self.run("x", function, roles, (weights, y), shape, y.dtype, geometry, settings)

    def weight_gradient(self, x, y, geometry, dtype, settings):
        def function(x, y, geometry):
            return xla.weight_gradient(x, y, geometry, FLOAT32)

        shape, roles = (*y.shape[1:3], geometry.weight_channels), ("map", "map", "weights")
        return self.run("weights", function, roles, (x, y), shape, dtype, geometry, settings)

    def forward_from_logits(self, x, logits, geometry, normalizer, settings):
        def function(x, logits, geometry):
            weights = normalize(logits, geometry, x.shape[1:3], normalizer)
            return xla.forward(x, weights, geometry, FLOAT32)

        shape, roles = shape_of_y(x, geometry), ("map", "logits", "map")
        return self.run("y", function, roles, (x, logits), shape, x.dtype, geometry, settings)

    def input_gradient_from_logits(self, logits, y, geometry, size, normalizer, settings):
        def function(logits, y, geometry):
            weights = normalize(logits, geometry, size, normalizer)
            return xla.input_gradient(weights, y, geometry, size, FLOAT32)

        shape, roles = (*size, y.shape[3]), ("logits", "map", "map")
        return self.run("x", function, roles, (logits, y), shape, y.dtype, geometry, settings)

    def logit_gradient(self, x, logits, y, geometry, normalizer, settings):
        def function(x, logits, y, geometry):
            def weights(logits):
                return normalize(logits, geometry, x.shape[1:3], normalizer)

            (gradient,) = jax.vjp(weights, logits)[1](xla.weight_gradient(x, y, geometry, FLOAT32))
            return gradient

        shape, roles, dtype = logits.shape[1:], ("map", "logits", "map", "logits"), logits.dtype
        arrays = x, logits, y
        return self.run("weights", function, roles, arrays, shape, dtype, geometry, settings)

    def gradients(self, x, weights, y, geometry, settings):
        def function(x, weights, y, geometry):
            dx = xla.input_gradient(weights, y, geometry, x.shape[1:3], FLOAT32)
            return dx, xla.weight_gradient(x, y, geometry, FLOAT32)

        operands = ("map", x), ("weights", weights), ("map", y)
        results = (
            calls.Result("map", x.shape[1:], x.dtype),
            calls.Result("weights", weights.shape[1:], weights.dtype),
        )
        return self.run_several("both", function, operands, results, geometry, settings)

    def gradients_from_logits(self, x, logits, y, geometry, normalizer, settings):
        def function(x, logits, y, geometry):
            def operator(x, logits):
                weights = normalize(logits, geometry, x.shape[1:3], normalizer)
                return xla.forward(x, weights, geometry, FLOAT32)

            return jax.vjp(operator, x, logits)[1](y)

        operands = ("map", x), ("logits", logits), ("map", y)
        results = (
            calls.Result("map", x.shape[1:], x.dtype),
            calls.Result("logits", logits.shape[1:], logits.dtype),
        )
        return self.run_several("both", function, operands, results, geometry, settings)


@contextlib.contextmanager
def stand_ins():
    """Replaces the kernels, and gives the list of calls."""
    functions = StandIns()
    replaced = (
        "forward",
        "input_gradient",
        "weight_gradient",
        "forward_from_logits",
        "input_gradient_from_logits",
        "logit_gradient",
        "gradients",
        "gradients_from_logits",
    )
    with contextlib.ExitStack() as stack:
        for name in replaced:
            stack.enter_context(mock.patch.object(mosaic_gpu, name, getattr(functions, name)))
        stack.enter_context(mock.patch.object(calls, "on_cuda", lambda array: array))
        # What is traced with them stays inside, and what was traced before outside.
        for compiled in (
            differentiation._compute,
            differentiation._compute_together,
            logit_differentiation._compute_from_logits,
            logit_differentiation._compute_together_from_logits,
        ):
            compiled.clear_cache()
            stack.callback(compiled.clear_cache)
        yield functions.calls
