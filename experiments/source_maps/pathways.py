"""Pathways: reassemblies one after the other, between two named maps of a network.

Only reassemblies are part of a pathway. Convolutions, laterals and shortcuts between them are not
counted.

Pixel ``i`` of a map with stride ``S`` covers the pixels ``S * i`` to ``S * (i + 1)``, exclusive, of
the image along each axis. The centre of a kernel of a downsampler is the first pixel of its cell,
so it lies half a pixel before the centre of this area.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from carafe_jax.sources import Reassembly, source_weights
from experiments.resamplers.fixed_kernels import (
    avg_pool_kernels,
    bilinear_kernels,
    box_kernels,
    nearest_kernels,
    strided_kernels,
)

Size = tuple[int, int]
MakeKernels = Callable[[Size], Reassembly]

# Kernels of resamplers that do not depend on the content, by the name of the method.
UPSAMPLERS: Mapping[str, MakeKernels] = {
    "nearest": nearest_kernels,
    "bilinear": bilinear_kernels,
    "box": functools.partial(box_kernels, up=2),
}
DOWNSAMPLERS: Mapping[str, MakeKernels] = {
    "strided": strided_kernels,
    "avg_pool": avg_pool_kernels,
    "box": functools.partial(box_kernels, down=2),
}

# Upsamplers of networks whose source weights are known.
KNOWN_UPSAMPLERS = ("carafe", "nearest", "bilinear")

# Fixed kernels that figures show below a network's own. CARAFE++ starts from the box filter.
BESIDE_UP = {name: UPSAMPLERS[name] for name in ("bilinear", "box")}
BESIDE_DOWN = {"box": DOWNSAMPLERS["box"]}

CARAFE = "CARAFE++"  # name of the pathway with the kernels of a network

# Reassemblies of a ResNet in order. The shortcut of a stage has another reassembly, with kernels of
# its own, which is not part of the pathway.
_BOTTOM_UP = ("pool", "layer2_0/resample", "layer3_0/resample", "layer4_0/resample")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("steps",),
    meta_fields=("name", "source_stride", "target_stride", "target_size"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Pathway:
    """Reassemblies from a source map to a target map; a pytree whose leaves are the kernels.

    Attributes:
        name: names of both maps, such as ``"P5 to P2"``. ``C1`` is the input of a ResNet's pool.
        steps: reassemblies in the order in which they are applied, at least one.
        source_stride: stride of the source map, in pixels of the image.
        target_stride: stride of the target map, in pixels of the image.
        target_size: height and width of the target map. It is the size of the last output, or a
            pixel less along an axis, because a pyramid crops the maps that it upsamples.
    """

    name: str
    steps: tuple[Reassembly, ...]
    source_stride: int
    target_stride: int
    target_size: Size

    @property
    def source_size(self) -> Size:
        """Height and width of the source map, in pixels."""
        return self.steps[0].size

    def of_image(self, number: int) -> Self:
        """Returns the pathway of one image of a batch; its kernels have no batch axis.

        Args:
            number: number of the image in the batch.
        """
        return jax.tree.map(lambda kernels: kernels[number], self)

    def first_steps(self, count: int) -> Self:
        """Returns the pathway to the map after the first steps.

        Args:
            count: number of steps, from 1 to the number of steps of this pathway.
        """
        steps, left = self.steps[:count], len(self.steps) - count
        if not left:
            return self
        scale = steps[0].down / steps[0].up
        return dataclasses.replace(
            self,
            name=f"first {count} steps of {self.name}",
            steps=steps,
            target_stride=round(self.source_stride * scale**count),
            # A pyramid crops an upsampled map to the size that the next step reads.
            target_size=self.steps[count].size,
        )

    def last_steps(self, count: int, name: str) -> Self:
        """Returns the pathway from the map before the last steps.

        Args:
            count: number of steps, from 1 to the number of steps of this pathway.
            name: names of both maps.
        """
        first = len(self.steps) - count
        scale = self.steps[0].down / self.steps[0].up
        return dataclasses.replace(
            self,
            name=name,
            steps=self.steps[first:],
            source_stride=round(self.source_stride * scale**first),
        )

    def with_kernels(self, make: MakeKernels) -> Self:
        """Returns a pathway between the same maps with other kernels, without batch axes.

        Args:
            make: function from the size of an input to a reassembly, of the same scale as the steps
                of this pathway; see :data:`UPSAMPLERS` and :data:`DOWNSAMPLERS`.
        """
        return dataclasses.replace(self, steps=tuple(make(step.size) for step in self.steps))


def top_down(
    found: Sequence[Reassembly], levels: Sequence[Size], *, at: str = "neck"
) -> Pathway | None:
    """Picks the top-down pathway of a feature pyramid, "P5 to P2" (Fig. 9 a).

    Args:
        found: reassemblies of the network, from ``collect_reassemblies``.
        levels: height and width of the levels from P2 to P5; further levels are ignored.
        at: path of the :class:`experiments.models.fpn.FPN` in the network; empty if it is the
            network.

    Returns:
        The pathway, or None if the pyramid has no CARAFE++.
    """
    names = [f"upsample_{level}" for level in range(5, 2, -1)]
    steps = pick(found, names, at)
    if len(steps) < len(names):
        return None
    return Pathway(
        name="P5 to P2",
        steps=steps,
        source_stride=2**5,
        target_stride=2**2,
        target_size=levels[0],
    )


def bottom_up(found: Sequence[Reassembly], *, at: str = "backbone") -> Pathway | None:
    """Picks the bottom-up pathway of a ResNet, "C1 to C5" (Fig. 9 b).

    C1 is the input of ``pool``. Four reassemblies halve the map. The pathway ends at an earlier
    stage if the later stages have dilations instead of strides.

    Args:
        found: reassemblies of the network, from ``collect_reassemblies``.
        at: path of the :class:`experiments.models.resnet.ResNet` in the network; empty if it is the
            network.

    Returns:
        The pathway, or None if the ResNet has no CARAFE++.
    """
    steps = pick(found, _BOTTOM_UP, at)
    if not steps:
        return None
    return Pathway(
        name=f"C1 to C{len(steps) + 1}",
        steps=steps,
        source_stride=2,
        target_stride=2 ** (len(steps) + 1),
        target_size=steps[-1].output_size,
    )


def pick(found: Sequence[Reassembly], names: Sequence[str], at: str = "") -> tuple[Reassembly, ...]:
    """Picks reassemblies by name, with float32 kernels.

    Args:
        found: reassemblies of a network.
        names: names below the path ``at``, in the order of the result.
        at: path of the module that has the reassemblies; empty if it is the network.

    Returns:
        The reassemblies that were found; names without a reassembly are left out.
    """
    by_name = {step.name: step for step in found}
    paths = [f"{at}/{name}" if at else name for name in names]
    picked = (by_name[path] for path in paths if path in by_name)
    return tuple(
        dataclasses.replace(step, kernels=jnp.asarray(step.kernels, jnp.float32)) for step in picked
    )


def fixed_top_down(levels: Sequence[Size], method: str) -> Pathway:
    """Makes the top-down pathway of a feature pyramid without CARAFE++, "P5 to P2".

    Args:
        levels: height and width of the levels from P2 to P5; further levels are ignored.
        method: name of a method in :data:`UPSAMPLERS`.
    """
    coarse = [*levels[:4]][:0:-1]  # P5 to P3, without P2
    return Pathway(
        name="P5 to P2",
        steps=tuple(UPSAMPLERS[method](size) for size in coarse),
        source_stride=2**5,
        target_stride=2**2,
        target_size=levels[0],
    )


def from_each_level(top_down: Pathway) -> tuple[Pathway, ...]:
    """Returns the pathways to P2 from P5, P4 and P3.

    Args:
        top_down: pathway from P5 to P2.
    """
    counts = range(len(top_down.steps) - 1, 0, -1)
    return top_down, *(top_down.last_steps(count, f"P{count + 2} to P2") for count in counts)


def compared(
    pathway: Pathway, methods: Mapping[str, MakeKernels], method: str = CARAFE
) -> dict[str, Pathway]:
    """Returns the pathway of a network, and pathways between the same maps with fixed kernels.

    Args:
        pathway: pathway of one image, whose kernels have no batch axis.
        methods: functions that make the fixed kernels, by the name of the method.
        method: name of the network's own method; ``methods`` may contain it.

    Returns:
        Pathways by the name of the method, the network's own first.
    """
    fixed = {name: pathway.with_kernels(make) for name, make in methods.items() if name != method}
    return {method: pathway, **fixed}


def map_size(image_size: Size, stride: int) -> Size:
    """Returns the size of a map: the size of the image divided by the stride, rounded up."""
    height, width = (-(-side // stride) for side in image_size)
    return height, width


def sources(pathway: Pathway, targets: Any) -> jax.Array:
    """Returns the weight of each source pixel in target pixels, as ``carafe_jax.sources``.

    Args:
        pathway: pathway of one image, whose kernels have no batch axis.
        targets: row and column of each target in the target map, integers ``[T, 2]``.

    Returns:
        Source weights, float32 ``[T, H, W]``, with the height and width of the source map.

    Raises:
        ValueError: a target is outside the last map.
    """
    return source_weights(pathway.steps, targets)


def image_sources(
    pathway: Pathway, targets: Any, image_size: Size
) -> Float[np.ndarray, "targets height width"]:
    """Returns the weight of each source pixel in target pixels, and 0 for pixels in the padding.

    Args:
        pathway: pathway of one image, whose kernels have no batch axis.
        targets: row and column of each target in the target map, integers ``[T, 2]``.
        image_size: height and width of the image, without the padding of the network's input.

    Returns:
        Source weights, float32 ``[T, H, W]``, with the height and width of the source map.
    """
    weights = np.array(sources(pathway, targets))
    height, width = map_size(image_size, pathway.source_stride)
    weights[:, height:] = 0
    weights[:, :, width:] = 0
    return weights
