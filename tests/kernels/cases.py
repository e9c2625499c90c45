"""Sizes and operands of one call of the operator."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from tests.kernels import oracle


@dataclasses.dataclass(frozen=True)
class Case:
    kernel_size: int = 5
    up: int = 1
    down: int = 1
    groups: int = 1
    size: tuple[int, int] = (6, 7)
    batch: int = 2
    group_channels: int = 2

    def __str__(self):
        sizes = "x".join(map(str, (self.batch, *self.size)))
        return f"k{self.kernel_size}-up{self.up}-down{self.down}-g{self.groups}-{sizes}"

    @property
    def options(self):
        """Keyword arguments of `reassemble` and of the oracle."""
        names = ("kernel_size", "up", "down", "groups")
        return {name: getattr(self, name) for name in names}

    @property
    def x_shape(self):
        return (self.batch, *self.size, self.groups * self.group_channels)

    @property
    def out_size(self):
        return tuple(oracle.output_size(n, self.up, self.down) for n in self.size)

    @property
    def weights_shape(self):
        return (self.batch, *self.out_size, self.groups * self.kernel_size**2)

    @property
    def y_shape(self):
        return (self.batch, *self.out_size, self.groups * self.group_channels)

    @property
    def logits_shape(self):
        cells = (-(-n // self.down) for n in self.size)
        return (self.batch, *cells, self.up**2 * self.groups * self.kernel_size**2)

    def operands(self, draw):
        """A map, weights and a cotangent, each from `draw(shape)`."""
        return draw(self.x_shape), draw(self.weights_shape), draw(self.y_shape)

    def random_operands(self, dtype=np.float32, seed=0):
        rng = np.random.default_rng(seed)
        return self.operands(lambda shape: rng.standard_normal(shape).astype(dtype))


def cases(kernel_sizes, factors, group_channels):
    sides = st.integers(1, 9)
    return st.builds(
        Case,
        kernel_size=st.sampled_from(kernel_sizes),
        up=st.sampled_from(factors),
        down=st.sampled_from(factors),
        groups=st.integers(1, 3),
        size=st.tuples(sides, sides),
        batch=st.integers(0, 2),
        group_channels=st.just(group_channels),
    )
