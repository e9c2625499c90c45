"""How much the compiler does for programs that tests run a few times."""

import contextlib
import functools

import jax
import pytest

# LLVM's optimisation takes about half of the time to compile; XLA's own passes all run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@contextlib.contextmanager
def few_optimizations():
    """Programs are compiled with few optimisations, also in processes started within.

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
