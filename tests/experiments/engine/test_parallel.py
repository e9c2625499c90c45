import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.parallel import AXIS, check_batch_size, data_parallel, join, split


def test_batches_are_split_over_all_devices_and_state_is_not_replicated():
    assert jax.local_device_count() == 4

    def step(state, batch):
        total = jax.lax.psum(batch["x"].sum(), AXIS)
        return {"sum": state["sum"] + total}, batch["x"].shape[0]

    batch = split({"x": np.arange(8.0)})
    state, share = data_parallel(step)({"sum": jnp.float32(1.0)}, batch)
    assert state["sum"].shape == ()
    assert float(state["sum"]) == 29
    assert int(share) == 2


def test_an_indivisible_batch_is_refused_with_the_nearest_multiples():
    with pytest.raises(ConfigError, match=r"a multiple of 4 .*devices.*, got 6.*\[4, 8\]"):
        split({"x": np.zeros((6, 2))})


def test_batches_that_are_on_the_devices_stay_there():
    step = data_parallel(lambda state, batch: jax.lax.psum((state * batch).sum(), AXIS))
    batch, state = split(np.arange(8.0)), jnp.float32(2)
    assert float(step(state, batch)) == 56
    state = step(state, batch)  # the results have the placement of the arguments
    with jax.transfer_guard("disallow"):
        step(state, batch)


@pytest.mark.parametrize(
    ("size", "accumulation", "nearest"), [(6, 1, "[4, 8]"), (3, 1, "[4]"), (20, 2, "[16, 24]")]
)
def test_a_global_batch_that_cannot_be_shared_is_refused(size, accumulation, nearest):
    with pytest.raises(
        ConfigError, match=re.escape(f"got {size}; the nearest multiples are {nearest}")
    ):
        check_batch_size(size, accumulation)
    check_batch_size(16, accumulation)


def test_results_have_the_order_of_the_batch():
    step = data_parallel(
        lambda state, batch: {"x": state * batch["x"], "none": batch["x"][:, :0]}, per_example=True
    )
    values = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    found = join(step(jnp.float32(2), split({"x": values})))
    assert isinstance(found["x"], np.ndarray)
    np.testing.assert_array_equal(found["x"], 2 * values)
    assert found["none"].shape == (8, 0)
