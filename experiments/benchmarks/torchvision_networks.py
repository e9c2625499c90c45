"""torchvision's networks with random weights.

A network has the same weights in every layout and in every process.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks import pytorch

_SEED = 0


@dataclasses.dataclass(frozen=True)
class TorchvisionNetworks:
    """Builds networks for one device and one layout.

    Attributes:
        torch: the module ``torch``.
        torchvision: the module ``torchvision``.
        platform: name of the JAX platform; determines the device.
        memory_format: PyTorch's memory format of weights and images.
    """

    torch: Any
    torchvision: Any
    platform: str
    memory_format: Any

    def classification(self, depth: int, classes: int, image: jax.Array) -> Callable[[], object]:
        """A call that computes a ResNet's logits of ``[B, H, W, 3]``, with running averages."""
        model, images = self._resnet(depth, classes).eval(), self._images(image)
        return self._call(lambda: model(images))

    def training(
        self,
        depth: int,
        classes: int,
        image: jax.Array,
        label: jax.Array,
        learning_rate: float,
        momentum: float,
    ) -> Callable[[], object]:
        """A call that trains a ResNet for a step: cross-entropy, gradients, SGD with momentum."""
        model, images = self._resnet(depth, classes).train(), self._images(image)
        labels = pytorch.tensor(self.torch, label, self.platform).long()
        optimizer = self.torch.optim.SGD(model.parameters(), learning_rate, momentum)

        def step() -> None:
            optimizer.zero_grad()
            self.torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

        return self._call(step, gradients=True)

    def detection(self, depth: int, classes: int, image: jax.Array) -> Callable[[], object]:
        """A call that detects objects in an image by Faster R-CNN with a feature pyramid.

        Args:
            depth: number of layers of the backbone.
            classes: number of classes without the background.
            image: the image ``[1, H, W, 3]``, which is not resized.
        """
        networks = self.torchvision.models.detection
        self.torch.manual_seed(_SEED)
        backbone = networks.backbone_utils.resnet_fpn_backbone(
            backbone_name=f"resnet{depth}", weights=None
        )
        sides = image.shape[1:3]
        model = networks.FasterRCNN(backbone, classes + 1, min_size=min(sides), max_size=max(sides))
        model, images = self._placed(model).eval(), self._images(image)
        return self._call(lambda: model([*images]))

    def _resnet(self, depth: int, classes: int) -> Any:
        return self._placed(_resnet(self.torch, self.torchvision, depth, classes))

    def _placed(self, model: Any) -> Any:
        return model.to(pytorch.DEVICES[self.platform], memory_format=self.memory_format)

    def _images(self, image: jax.Array) -> Any:
        """Converts images ``[B, H, W, 3]`` to PyTorch's ``[B, 3, H, W]``."""
        images = pytorch.tensor(self.torch, image, self.platform)
        return images.movedim(3, 1).contiguous(memory_format=self.memory_format)

    def _call(
        self, function: Callable[[], object], gradients: bool = False
    ) -> Callable[[], object]:
        """Wraps a function so that it waits for its results on the device."""

        def run() -> object:
            with self.torch.set_grad_enabled(gradients):
                return function()

        return pytorch.waiting(self.torch, run, self.platform)


def _resnet(torch: Any, torchvision: Any, depth: int, classes: int) -> Any:
    """A ResNet with random weights, on the CPU."""
    torch.manual_seed(_SEED)
    return torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=classes)


def save_resnet(depth: int, classes: int, path: Path) -> bool:
    """Writes the ``state_dict`` of the ResNet, which all layouts share.

    Returns:
        Whether torchvision is installed; without it nothing is written.
    """
    torch, torchvision = pytorch.load("cpu"), pytorch.load_torchvision()
    if torch is None or torchvision is None:
        return False
    torch.save(_resnet(torch, torchvision, depth, classes).state_dict(), path)
    return True


def all_layouts(platform: str) -> dict[str, TorchvisionNetworks]:
    """Networks for each layout, by name; empty if PyTorch or torchvision cannot be used."""
    torch, torchvision = pytorch.load(platform), pytorch.load_torchvision()
    if torch is None or torchvision is None:
        return {}
    layouts = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
    return {
        f"torchvision, {name}": TorchvisionNetworks(torch, torchvision, platform, memory_format)
        for name, memory_format in layouts.items()
    }
