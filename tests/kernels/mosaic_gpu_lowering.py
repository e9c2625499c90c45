"""Lowering for NVIDIA GPUs on a machine without one."""

import dataclasses
import re

import jax
from jax.sharding import AbstractMesh, use_abstract_mesh


@dataclasses.dataclass(frozen=True)
class Device:
    """The device that lowering needs: an abstract device with a compute capability."""

    compute_capability: str
    device_kind: str = "gpu"
    num_cores: int | None = None
    platform: str = "cuda"


def lowered(function, *shapes, capability="9.0"):
    """The text of `function` lowered for a GPU."""
    mesh = AbstractMesh((), (), abstract_device=Device(capability))
    with use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*shapes)
        return traced.lower(lowering_platforms=("cuda",)).as_text(debug_info=True)


def tensor_sizes(text):
    """The numbers of elements of all tensors in a lowered text."""
    sizes = set()
    for shape in re.findall(r"tensor<((?:\d+x)+)\w+>", text):
        size = 1
        for n in shape.rstrip("x").split("x"):
            size *= int(n)
        sizes.add(size)
    return sizes
