"""Where what is traced now may run."""

import jax


def devices_of_process() -> list[jax.Device]:
    """The devices of this process that what is traced now may run on."""
    default = jax.config.jax_default_device
    return jax.local_devices(
        backend=default.platform if isinstance(default, jax.Device) else default
    )
