"""Where the variables of a model are in a file of weights, and how they are arranged there."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.weights.arrangements import Arrangement

# Keys of a variable in the tree of a model, with its collection: ("params", "fc", "kernel").
type Path = tuple[str, ...]

# Counters of PyTorch, in BatchNorm and in averages of models.
_COUNTERS = ("num_batches_tracked", "n_averaged")


@dataclasses.dataclass(frozen=True)
class Source:
    """The array of a file that holds a variable.

    Args:
        name: name of the array in the file.
        arrangement: how its values are arranged.
    """

    name: str
    arrangement: Arrangement


@dataclasses.dataclass(frozen=True)
class Layout:
    """A format of weights, for one model.

    Args:
        kind: name of the format, for messages, such as ``"mmdet"``.
        source: function from the path of a variable to its array in the file.
        unused: function from the name of an array in the file to the reason why the model does not
            use it, or ``None`` if the model must use it. For example, the counters of PyTorch's
            BatchNorm are not used.
    """

    kind: str
    source: Callable[[Path], Source]
    unused: Callable[[str], str | None]

    def sources(self, variables: Any) -> Mapping[Path, Source]:
        """The source of each variable of a model, in the order of ``jax.tree.leaves``."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
        paths = [tuple(key.key for key in keys) for keys, _ in leaves]
        return {path: self.source(path) for path in paths}


def counter(name: str) -> str | None:
    """The reason why a counter of PyTorch is not used; ``None`` for any other array.

    Args:
        name: name of an array in a file.
    """
    return "a counter of PyTorch's training" if name.endswith(_COUNTERS) else None
