"""Reduces the compiler's optimisations for programs that tests run only a few times."""

import contextlib
import functools

import jax
import pytest

# LLVM's optimisations take about half of the compile time; all of XLA's own passes still run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@contextlib.contextmanager
def few_optimizations():
    """Compiles programs with few optimisations, also in processes started in this context.

    Small networks take longer to compile than to run.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", before)
