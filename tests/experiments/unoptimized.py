"""Compilation for tests, whose programs run a few times on small arrays."""

import functools

import jax

# LLVM's optimisation takes about half of the time to compile; XLA's own passes all run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
