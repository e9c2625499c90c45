"""The geometry of a reassembly, and the images of its kernels."""

import jax
from carafe_kernels.geometry import Geometry

from carafe_jax.sources import Reassembly


def geometry_of(step: Reassembly) -> Geometry:
    """Returns the geometry of a reassembly."""
    return Geometry(step.kernel_size, step.up, step.down, step.groups)


def check_images(step: Reassembly, weight: jax.Array) -> None:
    """Checks that a reassembly has the kernels of a batch of images.

    Args:
        step: reassembly of a layer.
        weight: weight of each image, ``[B]``.

    Raises:
        ValueError: the kernels do not have one batch axis of ``B`` images.
    """
    if step.kernels.ndim != 4 or step.kernels.shape[0] != weight.size:
        raise ValueError(
            f"kernels of {step.name!r} must have one batch axis of the {weight.size} images, got "
            f"shape {step.kernels.shape}"
        )
