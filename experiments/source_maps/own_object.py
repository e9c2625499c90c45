"""The share of a target's source weight that lies on the target's own object.

The CARAFE++ paper says of Fig. 9 that a location on an object prefers points of the same instance.
This module measures how much.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from carafe_jax.sources import Reassembly, reassemble_chain
from experiments.source_maps.instances import at_targets, coverage
from experiments.source_maps.pathways import Pathway

# Numbers of channels are rounded up to a multiple, so that fewer programs are compiled.
_CHANNELS = 8


class Shares(NamedTuple):
    """The share of the source weight on the own object, of each pixel of a target map.

    Attributes:
        share: shares in [0, 1], float32 ``[rows, columns]``; 0 for targets outside objects.
        instance: number of the object in which the centre of each target lies, ``[rows, columns]``;
            0 for the background, and -1 outside the image.
        in_image: source weight within the image, by which the weight on the object was divided,
            float32 ``[rows, columns]``. It is 1 unless normalised kernels reach beyond the image.
    """

    share: Float[np.ndarray, "rows columns"]
    instance: Int[np.ndarray, "rows columns"]
    in_image: Float[np.ndarray, "rows columns"]


def own_object_shares(pathway: Pathway, instances: Int[np.ndarray, "height width"]) -> Shares:
    """Computes the share of each target's source weight that lies on the target's own object.

    A target belongs to the object in which its centre lies; see
    :func:`experiments.source_maps.instances.at_targets`. The weight on a source pixel counts with
    the fraction of the pixel's area that the object covers. The share is the sum of this weight,
    divided by the weight within the image; weight beyond the border of the map, or in the padding
    of the network's input, is in neither.

    The result is exact for all targets at once: a reassembly of the coverage is the sum of coverage
    over sources, weighted by the source weights.

    Args:
        pathway: pathway of one image, whose kernels have no batch axis.
        instances: number of the object at each pixel of the image, 0 for the background, without
            the padding of the network's input.
    """
    stride, size = pathway.source_stride, pathway.source_size
    numbers = np.unique(instances[instances > 0])
    channels = -(-(1 + len(numbers)) // _CHANNELS) * _CHANNELS
    covered = np.zeros((*size, channels), np.float32)
    covered[..., 0] = coverage(np.ones(instances.shape, bool), stride, size)
    for channel, number in enumerate(numbers, 1):
        covered[..., channel] = coverage(instances == number, stride, size)
    rows, columns = pathway.target_size
    weight = np.asarray(_reassembled(pathway.steps, covered))[:rows, :columns]
    owners = at_targets(instances, pathway.target_stride, pathway.target_size)
    channel_of = np.where(owners > 0, 1 + np.searchsorted(numbers, owners), 0)
    on_object = np.take_along_axis(weight, channel_of[..., None], axis=-1)[..., 0]
    in_image = weight[..., 0]
    share = np.zeros(on_object.shape, np.float32)
    np.divide(on_object, in_image, out=share, where=(owners > 0) & (in_image > 0))
    return Shares(share, owners, in_image)


@jax.jit
def _reassembled(
    steps: tuple[Reassembly, ...], covered: Float[Array, "height width channels"]
) -> Float[Array, "rows columns channels"]:
    return reassemble_chain(steps, covered)


def border_targets(box: Shares) -> Bool[np.ndarray, "rows columns"]:
    """Returns the targets near a border of their object.

    Args:
        box: shares of a pathway with box filters between the same maps. A target is near a border
            if its share is strictly between 0 and 1, beyond rounding errors.
    """
    rounding = 1e-5
    return (box.instance > 0) & (box.share > rounding) & (box.share < 1 - rounding)


@dataclasses.dataclass
class Mean:
    """A mean over objects of the mean over the targets of an object.

    Each object counts once, so that large objects do not decide the result.

    Attributes:
        targets: number of targets.
        objects: number of objects with at least one target.
        total: sum over objects of the mean over the object's targets.
    """

    targets: int = 0
    objects: int = 0
    total: float = 0.0

    def add(self, shares: Shares, selected: Bool[np.ndarray, "rows columns"]) -> None:
        """Adds the objects of an image.

        Args:
            shares: shares of the targets of the image.
            selected: targets that count; they must belong to objects.
        """
        numbers, inverse = np.unique(shares.instance[selected], return_inverse=True)
        counts = np.bincount(inverse.ravel(), minlength=len(numbers))
        values = shares.share[selected].astype(np.float64)
        sums = np.bincount(inverse.ravel(), weights=values, minlength=len(numbers))
        self.targets += int(counts.sum())
        self.objects += len(numbers)
        self.total += float((sums / counts).sum())

    @property
    def mean(self) -> float | None:
        """The mean over objects; None if there are none."""
        return self.total / self.objects if self.objects else None


class Means(NamedTuple):
    """Means over all targets in objects, and over the targets near borders of objects.

    Attributes:
        all: mean over all targets whose centre lies in an object.
        border: mean over the targets that :func:`border_targets` selects.
        in_image: mean of the source weight within the image, over all targets in objects.
    """

    all: Mean
    border: Mean
    in_image: Mean


def add_image(
    means: dict[str, Means],
    pathways: Mapping[str, Pathway],
    instances: Int[np.ndarray, "height width"],
) -> None:
    """Adds the shares of the objects of one image to the means of several methods.

    Args:
        means: means by the name of the method, to which the image is added.
        pathways: pathways between the same maps by the name of the method; ``"box"`` must be one of
            them, because it defines which targets are near borders.
        instances: number of the object at each pixel of the image, 0 for the background.
    """
    shares = {name: own_object_shares(pathway, instances) for name, pathway in pathways.items()}
    border = border_targets(shares["box"])
    for name, found in shares.items():
        total = means.setdefault(name, Means(Mean(), Mean(), Mean()))
        total.all.add(found, found.instance > 0)
        total.border.add(found, border)
        total.in_image.add(found._replace(share=found.in_image), found.instance > 0)
