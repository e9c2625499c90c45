"""Explains why files of weights do not match a model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.text import listed
from experiments.weights.architecture import architecture
from experiments.weights.files import Entry
from experiments.weights.formats import recognise
from experiments.weights.layout import counter


def differences(
    expected: Mapping[str, Sequence[int]],
    found: Mapping[str, Entry],
    unused: Collection[str],
    keep: Collection[str],
) -> dict[str, str]:
    """Explains for each array of a file why it does not match a model, sorted by name.

    Args:
        expected: shapes of the model's arrays, by name in the file.
        found: arrays of the files.
        unused: names of arrays that the model does not use.
        keep: submodules whose arrays are not compared.
    """
    problems = {}
    for name in expected.keys() | found.keys():
        if name in unused or is_in(name, keep):
            continue
        shape, entry = expected.get(name), found.get(name)
        if shape is None or entry is None or tuple(shape) != entry.shape:
            have = "nothing" if entry is None else list(entry.shape)
            nothing = "one number" if counter(name) else "nothing"
            want = nothing if shape is None else list(shape)
            problems[name] = f"expected {want}, found {have}"
        elif not entry.is_floating:
            problems[name] = f"expected floating-point numbers, found {entry.dtype}"
    return dict(sorted(problems.items()))


def mismatch_message(
    paths: Sequence[Path],
    expected: Mapping[str, Sequence[int]],
    found: Mapping[str, Entry],
    problems: Mapping[str, str],
) -> str:
    """The message for files that do not match a model, with both networks and an advice.

    Args:
        paths: paths of the files.
        expected: shapes of the model's arrays, by name in the file.
        found: arrays of the files.
        problems: explanations by name, from :func:`differences`.
    """
    shapes = {name: entry.shape for name, entry in found.items()}
    modules = _to_keep(expected, problems)
    advice = f"; `keep` would let {modules} keep the model's values" if modules else ""
    recognised, own = recognise(shapes), recognise(expected)
    if recognised is not None and recognised != own:
        advice += f"; the file {recognised.advice}"
    return (
        f"{joined(paths)} does not fit the model, {len(problems)} of the arrays differ: the file "
        f"is of {architecture(shapes)}, and the model is {architecture(expected)}{advice}"
        f". {listed([f'{name}: {problem}' for name, problem in problems.items()])}"
    )


def joined(paths: Sequence[Path]) -> str:
    """The paths of files, for messages."""
    return " and ".join(map(str, paths))


def is_in(name: str, modules: Collection[str]) -> bool:
    """Whether an array belongs to one of several submodules.

    Args:
        name: name of the array in the file.
        modules: names of submodules, or parts of these names: ``"conv2"`` means the ``conv2``
            of every block.
    """
    return any(f".{module}." in f".{name}" for module in modules)


def _to_keep(expected: Mapping[str, Any], problems: Mapping[str, str]) -> list[str]:
    """Returns submodules without which a file would match; none if few arrays match.

    All their arrays must differ.
    """
    fitting = expected.keys() - problems.keys()
    if len(fitting) < len(expected) / 2:
        return []
    left, chosen = {*problems}, []
    candidates = {part for name in problems if name in expected for part in _parts(name)}
    candidates = {part for part in candidates if not any(is_in(name, [part]) for name in fitting)}
    while left:
        # The longest run of arrays; among equal ones the shortest and then the first name.
        holds = {part: sum(is_in(name, [part]) for name in left) for part in candidates}
        best = max(sorted(holds), key=lambda part: (holds[part], -len(part)), default="")
        if not holds.get(best):
            return []  # the file has unexpected arrays
        chosen.append(best)
        left = {name for name in left if not is_in(name, [best])}
    return sorted(chosen)


def _parts(name: str) -> Iterator[str]:
    """Yields all runs of submodules in a name: ``a``, ``b``, ``a.b`` of ``a.b.weight``."""
    modules = name.split(".")[:-1]
    for start in range(len(modules)):
        for end in range(start, len(modules)):
            if not modules[start].isdigit():
                yield ".".join(modules[start : end + 1])
