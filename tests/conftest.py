"""Settings of all tests, and one cache of compiled programs for the session's processes."""

import ctypes
import gc
import os
import platform
import tempfile

import jax
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)

# Programs that tests start, and runs that are resumed, compile the same steps again: within one
# session they are read back. Programs and workers inherit the environment of the first process.
COMPILED = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# JAX reads the environment when it is imported, and a plugin may have done that before.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Geometry and the functions of carafe_jax check their arguments themselves.
CHECKED_BY_JAXTYPING = ("normalizers", "xla", "mosaic_gpu")
install_import_hook(
    [f"carafe_kernels.{name}" for name in CHECKED_BY_JAXTYPING], "beartype.beartype"
)

settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    # Every implementation inherits the same property tests.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
settings.load_profile("tests")

pytest.register_assert_rewrite(
    "tests.carafe_jax.twins",
    "tests.experiments.detection.conversion.networks",
    "tests.kernels.operator_base",
    "tests.kernels.transformation_base",
)


@pytest.fixture(autouse=True, scope="module")
def give_memory_back():
    """Frees a module's programs, which JAX keeps, and the heap in which they were compiled."""
    yield
    jax.clear_caches()
    gc.collect()
    if platform.libc_ver()[0] == "glibc":  # keeps what is freed, unless it is asked
        ctypes.CDLL(None).malloc_trim(0)


def pytest_configure(config):
    # Entries are not written atomically: who reads one that another process has not finished, or
    # never will because a test has killed it, compiles for itself.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:Error (reading|writing) persistent compilation cache entry:UserWarning",
    )


def pytest_unconfigure():
    if COMPILED:
        COMPILED.cleanup()
