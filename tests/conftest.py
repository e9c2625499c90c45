import jax
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)

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
    "tests.kernels.operator_base", "tests.kernels.placement_base", "tests.carafe_jax.twins"
)
