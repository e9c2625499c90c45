"""Reassemblies of the layers of a model, in the order in which the model calls the layers.

Flax passes the kernels out of the transformations inside a model, such as ``remat`` and ``scan``,
but without the order of the calls. A transformation may also trace a layer several times. So each
traced call is recorded here, under its layer and its number among the calls of the layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from carafe_kernels.geometry import Resize

from carafe_jax.sources import Reassembly


def reassembly_of(
    layer: Any, name: str, x: jax.Array, kernels: jax.Array, resize: Resize | None
) -> Reassembly:
    """Returns the reassembly of ``x`` by a layer ``CARAFE``, of Linen or NNX.

    Args:
        layer: the layer.
        name: path of the layer in its model.
        x: input of the layer, ``[..., H, W, C]``.
        kernels: kernels that the layer applies to ``x``.
        resize: axes of the call, if it has a size or a scale.
    """
    height, width = x.shape[-3:-1]
    return Reassembly(
        kernels=kernels,
        size=(height, width),
        kernel_size=int(layer.kernel_size),
        up=int(layer.up) if resize is None else 1,
        down=int(layer.down) if resize is None else 1,
        groups=int(layer.groups),
        scale=None if resize is None else (resize.rows.scale, resize.columns.scale),
        name=name,
    )


class Calls:
    """Calls of layers, in the order in which they are traced."""

    def __init__(self) -> None:
        # Name of the layer and number of the call: last three sizes of the kernels.
        self._calls: dict[tuple[str, int], tuple[int, ...]] = {}

    def record(self, number: int, reassembly: Reassembly) -> None:
        """Records a call.

        Args:
            number: number of calls of the layer before this call.
            reassembly: what the layer does in this call.
        """
        self._calls[reassembly.name, number] = reassembly.kernels.shape[-3:]

    def reassemblies(self, kept: Mapping[str, Sequence[Any]]) -> tuple[Reassembly, ...]:
        """Returns the reassemblies in the order of the calls.

        Args:
            kept: reassemblies of each layer in the order of its calls. Other entries do not count.

        Raises:
            ValueError: a transformation dropped kernels, moved their axes, or called a layer
                without tracing it.
        """
        found = []
        for (name, number), sizes in self._calls.items():
            entries = kept.get(name, ())
            if number >= len(entries):
                raise dropped(name)
            reassembly = entries[number]
            if reassembly.kernels.shape[-3:] != sizes:
                raise ValueError(
                    f"a transformation around the layer {name!r} must add its axis to "
                    f"intermediates before the axes {sizes} of the kernels, got shape "
                    f"{reassembly.kernels.shape}"
                )
            found.append(reassembly)
        for name, entries in kept.items():
            for number, entry in enumerate(entries):
                if isinstance(entry, Reassembly) and (name, number) not in self._calls:
                    raise ValueError(
                        f"the layer {name!r} must be traced, got a call of nn.jit that reuses the "
                        "program of another layer; leave nn.jit out to collect reassemblies"
                    )
        return tuple(found)


def dropped(name: str) -> ValueError:
    """The error for a layer whose kernels do not leave a transformation."""
    return ValueError(
        f"the layer {name!r} must be able to return its kernels, but a transformation inside the "
        "model drops them: lifted transformations of Flax must include intermediates, as in "
        'nn.scan(..., variable_axes={"params": 0, "intermediates": 0}) of Linen and '
        "nnx.StateAxes({nnx.Param: 0, nnx.Intermediate: 0}) of NNX; transformations of JAX and "
        "calls of apply inside a model cannot pass them on"
    )
