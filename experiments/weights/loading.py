"""Reads files of weights into the variables of a model, and arranges variables for a file.

Running statistics of BatchNorm are used unchanged, but they differ in training: PyTorch updates the
running variance with the unbiased variance of a batch (divided by ``n - 1``, with ``n`` values a
channel), Flax with the biased one (divided by ``n``). Both normalise the batch itself by the biased
variance.
"""

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from experiments.engine.finite import bad_values
from experiments.engine.text import listed
from experiments.weights.arrangements import Arrangement
from experiments.weights.files import Entry, WeightsError, open_weights
from experiments.weights.layout import Layout, counter
from experiments.weights.mismatch import differences, is_in, joined, mismatch_message

__all__ = ["Loaded", "WeightsError", "arrays_for_file", "file_shapes", "load", "unused_texts"]

_VARIANCE = "var"  # the name that Flax uses
_WRAPPERS = {"module", "_orig_mod", "model"}
_KEPT = "`keep` names its submodule"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The contents of files of weights.

    Attributes:
        variables: variables of the model.
        unused: for the name of each array that the model does not use, the reason.
        rest: arrays that are needed to write the same file again, by name: the variables lack them,
            some of their values, or their precision. See :func:`arrays_for_file`.
    """

    variables: PyTree[Float[Array, "..."]]
    unused: dict[str, str]
    rest: dict[str, np.ndarray]


def load(
    path: Path | Sequence[Path],
    variables: PyTree[Float[Array, "..."]],
    layout: Layout,
    keep: Collection[str] = (),
) -> Loaded:
    """Reads files of weights into the variables of a model.

    Every variable must have its array, and every array must be used or have a reason in
    ``layout.unused``. Names may share a prefix such as ``module.``, which is removed.

    Names and shapes do not determine what a network computes: the layout must be for a model with
    the same strides, dilations, input and epsilon.

    Args:
        path: path of a file; or paths of several files, whose names must differ. See
            :func:`experiments.weights.files.open_weights` for the kinds of files.
        variables: variables of the model, which provide structure, shapes and dtypes: half and
            double precision in the file are converted to the model's float32. Shapes from
            ``jax.eval_shape`` suffice.
        layout: names and arrangements in the file.
        keep: submodules that keep their values in ``variables``, by the names in the file or parts
            of these names: ``"conv2"`` means the ``conv2`` of every block. The file's values for
            these submodules are ignored.

    Returns:
        Complete variables with the structure of ``variables``, and the arrays that are not used.

    Raises:
        WeightsError: a file cannot be opened, or an array cannot be read; two files have an array
            of the same name; a name in ``keep`` matches no submodule; or the files do not match the
            model. Then the message names both networks, and each array that is missing, unexpected
            or of another shape or kind (of more than 20 arrays, the first six). If an array has
            values that are NaN, infinite, beyond 1e19 or, for a variance, negative, the message
            names these arrays in the same way.
    """
    paths = [path] if isinstance(path, Path) else [*path]
    sources = layout.sources(variables)
    leaves, structure = jax.tree.flatten(variables)
    names = [source.name for source in sources.values()]
    assert len({*names}) == len(names), "a layout must have a name for each variable"
    _check_kept(keep, names)
    expected = _expected_shapes(sources.values(), leaves)
    with _opened(paths, {name.partition(".")[0] for name in names}) as entries:
        unused = _unused(entries, expected, layout, keep)
        if problems := differences(expected, entries, {*unused}, keep):
            raise WeightsError(mismatch_message(paths, expected, entries, problems))
        loaded, faults, rest = [], [], {}
        for (variable, source), leaf in zip(sources.items(), leaves, strict=True):
            if is_in(source.name, keep):
                loaded.append(leaf)
                continue
            value = entries[source.name].read()
            if fault := bad_values(value, variable[-1] == _VARIANCE):
                faults.append(f"{source.name}: {fault}")
                continue
            arranged = source.arrangement.to_model(value.astype(leaf.dtype))
            loaded.append(jnp.asarray(arranged))
            if value.dtype != leaf.dtype or arranged.size < value.size:
                rest[source.name] = value
        rest |= {name: entries[name].read() for name in unused if unused[name] != _KEPT}
    if faults:
        raise WeightsError(
            f"{joined(paths)} holds unusable values in {len(faults)} of the arrays: "
            f"{listed(faults)}"
        )
    return Loaded(jax.tree.unflatten(structure, loaded), unused, rest)


def arrays_for_file(
    variables: PyTree[Float[Array, "..."]],
    layout: Layout,
    rest: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Arranges the variables of a model for a file, the inverse of :func:`load`.

    Args:
        variables: variables of the model.
        layout: names and arrangements in the file.
        rest: arrays of the file that the variables came from, from :attr:`Loaded.rest`. They
            provide the values that the model lacks, and the precision. Values that the model has
            not changed have the bits of the file. An array with values beyond the range of the
            file's precision has the model's precision.

    Returns:
        The arrays by name, contiguous.
    """
    rest = rest or {}
    arrays = {}
    leaves = jax.tree.leaves(variables)
    for source, leaf in zip(layout.sources(variables).values(), leaves, strict=True):
        value = source.arrangement.to_file(np.asarray(leaf))
        if (original := rest.get(source.name)) is not None:
            value = _merged(value, original, source.arrangement)
        arrays[source.name] = np.ascontiguousarray(value)
    return {**rest, **arrays}


def file_shapes(path: Path | Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in files of weights, by name, without the prefix of a wrapper.

    Args:
        path: path of a file, or paths of several files.

    Raises:
        WeightsError: a file cannot be opened, or two files have an array of the same name.
    """
    paths = [path] if isinstance(path, Path) else [*path]
    with _opened(paths, ()) as entries:
        return {name: entry.shape for name, entry in entries.items()}


def unused_texts(unused: Mapping[str, str]) -> list[str]:
    """Lists the reasons why arrays of a file are not used, with the number of arrays of each.

    Args:
        unused: reasons by name, from :attr:`Loaded.unused`.

    Returns:
        Texts such as ``"53 arrays: a counter of PyTorch's training"``.
    """
    return [
        f"{count} {'array' if count == 1 else 'arrays'}: {reason}"
        for reason, count in Counter(unused.values()).items()
    ]


def _merged(value: np.ndarray, original: np.ndarray, arrangement: Arrangement) -> np.ndarray:
    """Replaces values of the original that the model has changed.

    The result has the dtype of the original, or the model's if the original's cannot hold a value.
    """
    changed = original.astype(value.dtype) != value
    if (positions := np.arange(original.size).reshape(original.shape)).size:
        held = np.zeros(original.size, bool)
        held[arrangement.to_model(positions).ravel()] = True
        changed &= held.reshape(original.shape)
    with np.errstate(over="ignore"):
        narrow = value.astype(original.dtype)
    if (changed & np.isfinite(value) & ~np.isfinite(narrow)).any():
        return np.where(changed, value, original.astype(value.dtype))
    return np.where(changed, narrow, original)


def _expected_shapes(sources: Collection[Any], leaves: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """The shape in the file of each variable."""
    # Only the shape matters: the smallest dtype, and no memory where the arrangement makes a view.
    zero = np.zeros((), np.int8)
    return {
        source.name: source.arrangement.to_file(np.broadcast_to(zero, leaf.shape)).shape
        for source, leaf in zip(sources, leaves, strict=True)
    }


@contextlib.contextmanager
def _opened(paths: Sequence[Path], modules: Collection[str]) -> Iterator[dict[str, Entry]]:
    """Opens files, and yields their arrays by name, without a prefix that all names share."""
    with contextlib.ExitStack() as stack:
        entries: dict[str, Entry] = {}
        for path in paths:
            found = stack.enter_context(open_weights(path))
            found = _without_prefix(found, modules)
            if both := sorted(entries.keys() & found.keys()):
                raise WeightsError(
                    f"weights must be files without common names, got {len(both)} in {path} and "
                    f"in a file before it: {listed(both)}"
                )
            entries |= found
        yield entries


def _unused(
    found: Mapping[str, Entry],
    expected: Mapping[str, Sequence[int]],
    layout: Layout,
    keep: Collection[str],
) -> dict[str, str]:
    """The reason why an array of the file is not used, by name."""
    reasons = {
        name: _KEPT if is_in(name, keep) else layout.unused(name)
        for name, entry in found.items()
        if is_in(name, keep)
        or (name not in expected and not (counter(name) and math.prod(entry.shape) > 1))
    }
    return {name: reason for name, reason in sorted(reasons.items()) if reason is not None}


def _check_kept(keep: Collection[str], names: Collection[str]) -> None:
    unknown = [kept for kept in keep if not any(is_in(name, [kept]) for name in names)]
    if unknown:
        parts = {part for name in names for part in name.split(".")[:-1] if not part.isdigit()}
        example = next(name for name in names if "conv" in name).rpartition(".")[0]
        raise WeightsError(
            f"keep must hold submodules that have variables, made of {sorted(parts)}, such as "
            f"{example!r}; got {unknown}"
        )


def _without_prefix(entries: dict[str, Entry], modules: Collection[str]) -> dict[str, Entry]:
    """Removes a prefix that wrappers such as ``DataParallel`` add to all names.

    What follows the prefix is one of ``modules``. If there are none, only known wrappers count.
    """
    names = {name: name for name in entries if not counter(name)}  # some have no prefix
    while names:
        first = {name.partition(".")[0] for name in names.values()}
        if first & set(modules) or (not modules and not first <= _WRAPPERS):
            whole, rest = next(iter(names.items()))
            prefix = whole.removesuffix(rest)
            return {name.removeprefix(prefix): entry for name, entry in entries.items()}
        if len(first) > 1 or not all("." in name for name in names.values()):
            break
        names = {name: rest.partition(".")[2] for name, rest in names.items()}
    return entries
