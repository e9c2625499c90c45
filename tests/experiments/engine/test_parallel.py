import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.parallel import AXIS, data_parallel, split


def test_batches_are_split_over_all_devices_and_state_is_not_replicated():
    assert jax.local_device_count() == 4

    def step(state, batch):
        total = jax.lax.psum(batch["x"].sum(), AXIS)
        return {"sum": state["sum"] + total}, batch["x"].shape[0]

    state, share = data_parallel(step)({"sum": jnp.float32(1.0)}, {"x": np.arange(8.0)})
    assert state["sum"].shape == ()
    assert float(state["sum"]) == 29
    assert int(share) == 2


def test_an_indivisible_batch_is_refused_with_the_nearest_that_fit():
    with pytest.raises(ConfigError, match=r"multiple of the 4 local devices, got 6.*\[4, 8\]"):
        split({"x": np.zeros((6, 2))})
