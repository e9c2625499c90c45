"""The devices on which a traced program may run."""

import jax


def devices_of_process() -> list[jax.Device]:
    """The devices of this process on which a program traced now may run."""
    default = jax.config.jax_default_device
    return jax.local_devices(
        backend=default.platform if isinstance(default, jax.Device) else default
    )
