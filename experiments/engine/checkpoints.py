"""Checkpoints of a run, by Orbax: written whole or not at all, kept by age and by score.

A checkpoint holds ``state`` (what the loop carries: model, optimiser, step, random key), ``data``
(the position of each process's iterator), ``progress`` (time spent) and, as soon as its state has
been evaluated, ``metrics``. States are read and written as NumPy arrays, so neither depends on the
devices.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext

from experiments.engine.checksums import (
    DamagedError,
    add_file,
    verify_checksums,
    write_checksums,
)
from experiments.engine.distributed import all_agree, barrier, is_primary
from experiments.engine.errors import UserError
from experiments.engine.json_files import is_finite, read_json
from experiments.engine.text import listed, shown

# The folder of the checkpoints in a run's.
CHECKPOINTS = "checkpoints"

_PROCESSES = "processes"
# Where a checkpoint has its metrics: the file in which Orbax keeps them, too.
_METRICS = "metrics/metrics"

# What Orbax and TensorStore were seen to raise for files that are cut off, altered or missing.
_DAMAGE = (ValueError, KeyError, FileNotFoundError, NotADirectoryError)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, damaged, of another model, or could not be written."""


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: after which it was written.
        state: a pytree of NumPy arrays.
        progress: numbers to go on counting from, such as the time spent.
        metrics: of an evaluation of the state; None if there was none.
        damaged: checkpoints that would have come first and cannot be read, each with the reason.
    """

    step: int
    state: Any
    progress: dict[str, float]
    metrics: dict[str, float] | None
    damaged: tuple[str, ...] = ()


class _NewestAndBest:
    """An Orbax preservation policy: the newest checkpoints stay, and those with the best scores.

    It knows the scores itself, for Orbax takes metrics at the time of saving alone, and a
    checkpoint is saved before its state is evaluated.
    """

    def __init__(self, keep_last: int, keep_best: int, scores: Mapping[int, float]) -> None:
        self._keep_last, self._keep_best, self._scores = keep_last, keep_best, scores

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of ``steps`` whose checkpoints stay."""
        scored = sorted(
            (step for step in steps if step in self._scores),
            key=lambda step: (self._scores[step], step),
        )
        best = scored[max(0, len(scored) - self._keep_best) :]
        return {*sorted(steps)[-self._keep_last :], *best}

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> list[bool]:
        """Whether each checkpoint stays, for Orbax."""
        del context
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Checkpoints:
    """Writes the checkpoints of one run.

    Args:
        folder: is created; an absolute or a relative path.
        keep_last: how many of the newest stay, at least 1.
        keep_best: how many of those with the highest metric stay too.
        best: name of that metric; None keeps by age alone.
    """

    def __init__(
        self, folder: Path, keep_last: int = 2, keep_best: int = 0, best: str | None = None
    ) -> None:
        self._folder, self._best = folder.absolute(), best
        self._scores: dict[int, float] = {}
        for step in steps_in(self._folder):
            self._note_score(step, _metrics_of(self._folder / str(step)))
        self._policy = _NewestAndBest(keep_last, keep_best, self._scores)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                lightweight_initialize=True,  # the policy needs no metadata
                create=True,
                enable_async_checkpointing=False,
            ),
        )

    def save(
        self,
        step: int,
        state: Any,
        data: grain.DatasetIterator | None,
        progress: Mapping[str, float],
    ) -> None:
        """Saves a checkpoint; every process of the run calls this.

        Args:
            step: after which it is.
            state: a pytree of arrays.
            data: this process's iterator, whose position is saved; None at step 0, where it has
                not moved yet.
            progress: numbers to go on counting from.

        Raises:
            CheckpointError: it could not be written; older ones are untouched.
        """
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(_numpy(state)),
            "progress": ocp.args.JsonSave({**progress, _PROCESSES: jax.process_count()}),
        }
        if data is not None:
            items["data"] = grain.checkpoint.CheckpointSave(data)
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (ValueError, OSError, RuntimeError) as error:
            older = [other for other in steps_in(self._folder) if other != step]
            kept = f"the newest whole one is of step {older[-1]}" if older else "there is none"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self._folder}: "
                f"{_first_line(error)}; {kept}"
            ) from error
        if is_primary():
            write_checksums(self._folder / str(step))

    def mark(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of its state to a checkpoint; every process of the run calls this.

        Checkpoints that are neither among the newest nor among the best then are deleted.

        Args:
            step: of the checkpoint.
            metrics: of an evaluation of its state, the same on every process.

        Raises:
            CheckpointError: they could not be written; the checkpoint stays as it is.
        """
        path = self._folder / str(step)
        if is_primary():
            try:
                add_file(path, _METRICS, json.dumps(dict(metrics)).encode())
            except (OSError, DamagedError) as error:
                raise CheckpointError(
                    f"the metrics of the checkpoint {path} could not be written: {error}"
                ) from error
        self._note_score(step, metrics)
        steps = self._manager.all_steps()
        for old in sorted({*steps} - self._policy.kept(steps)):
            self._manager.delete(old)

    def _note_score(self, step: int, metrics: Mapping[str, float] | None) -> None:
        if self._best is not None and (score := _score(metrics, self._best)) > -math.inf:
            self._scores[step] = score

    def close(self) -> None:
        """Closes Orbax' checkpoint manager."""
        self._manager.close()


def restore(folder: Path, state: Any, data: grain.DatasetIterator) -> Restored | None:
    """Restores the newest checkpoint that can be read, and moves ``data`` to where it was then.

    Newer ones that cannot be read are moved to the folder ``damaged`` beside ``folder``. Every
    process of the run calls this, and all take the same checkpoint.

    Args:
        folder: of the checkpoints; may be missing.
        state: gives structure, shapes and dtypes.
        data: this process's iterator, over the data that the checkpoint was written with.

    Returns:
        None if there is no checkpoint.

    Raises:
        CheckpointError: there are some, but none can be read, or one is of another model.
    """
    damaged: list[tuple[Path, str]] = []
    for path in _newest_first(folder):
        restored: tuple[Any, Any, Any] | None = None
        reason = "another process cannot read it"
        try:
            restored = _read(path, state)
            _check_processes(path, restored[1])
            if path.name != "0":
                grain.checkpoint.CheckpointHandler().restore(path / "data", item=data)
        except _DAMAGE as error:
            restored, reason = None, _first_line(error)
        if all_agree(restored is not None) and restored is not None:
            barrier("checkpoint chosen")
            messages = tuple(_set_aside(damaged_path, why) for damaged_path, why in damaged)
            return Restored(int(path.name), *restored, messages)
        damaged.append((path, reason))
    if damaged:
        raise _all_damaged(damaged)
    return None


def restore_state(folder: Path, state: Any, best: str | None = None) -> Restored:
    """Restores the state of the first checkpoint that can be read, without its data iterator.

    Args:
        folder: of the checkpoints.
        state: gives structure, shapes and dtypes.
        best: those with the highest metric of this name come first, and then those without it;
            by default the newest comes first.

    Raises:
        CheckpointError: there is none, none can be read, or it is of another model.
    """
    tried: dict[Path, str] = {}
    while True:
        # Listed anew each time: a run that is going on writes checkpoints and deletes older ones.
        paths = [path for path in _newest_first(folder) if path not in tried]
        if best is not None:
            paths.sort(key=lambda path: _score(_metrics_of(path), best), reverse=True)
        damaged = [(path, why) for path, why in tried.items() if path.exists()]
        if not paths and damaged:
            raise _all_damaged(damaged)
        if not paths:
            raise CheckpointError(f"{folder} holds no checkpoint")
        path = paths[0]
        try:
            restored = _read(path, state)
        except _DAMAGE as error:
            tried[path] = _first_line(error)
            continue
        messages = tuple(f"{damaged_path}: {why}" for damaged_path, why in damaged)
        return Restored(int(path.name), *restored, messages)


def steps_in(folder: Path) -> list[int]:
    """The steps of which ``folder`` holds a checkpoint, ascending."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def save_state(path: Path, state: Any) -> None:
    """Writes a state by itself, outside any run's checkpoints; the primary process alone calls it.

    Args:
        path: a folder that does not exist yet.
        state: a pytree of arrays.
    """
    with _alone(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.StandardSave(_numpy(state)))


def _newest_first(folder: Path) -> Iterator[Path]:
    return (folder.absolute() / str(step) for step in reversed(steps_in(folder)))


def _alone(handler: Any) -> ocp.Checkpointer:
    """A checkpointer that waits for no other process: one that fails must not block the rest."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process_{jax.process_index()}",
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _read_state(path: Path, state: Any) -> Any:
    with _alone(ocp.StandardCheckpointHandler()) as checkpointer:
        found = _arrays(checkpointer.metadata(path / "state").item_metadata)
        if not found:  # Orbax takes metadata that are cut off for empty ones
            raise ValueError("its metadata cannot be read")
        _check_same_model(path, _arrays(state), found)
        template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), state)
        return checkpointer.restore(path / "state", args=ocp.args.StandardRestore(template))


def _read(path: Path, state: Any) -> tuple[Any, dict[str, float], dict[str, float] | None]:
    """State, progress and metrics of a checkpoint."""
    verify_checksums(path)
    metrics = path / _METRICS
    return (
        _read_state(path, state),
        _read_numbers(path / "progress" / "metadata"),
        _read_numbers(metrics) if metrics.exists() else None,
    )


def _metrics_of(path: Path) -> dict[str, float] | None:
    """The metrics of a checkpoint; None if it has none that can be read."""
    try:
        return _read_numbers(path / _METRICS)
    except _DAMAGE:
        return None


def _score(metrics: Mapping[str, float] | None, metric: str) -> float:
    """The value of one metric; where it is missing or NaN, less than any other."""
    value = math.nan if metrics is None else metrics.get(metric, math.nan)
    return -math.inf if math.isnan(value) else value


def _check_processes(path: Path, progress: dict[str, float]) -> None:
    written, found = progress[_PROCESSES], jax.process_count()
    if int(path.name) and written != found:
        raise CheckpointError(
            f"the checkpoint {path} is of a run of {written} processes, each with a place of its "
            f"own in the data, and this one has {found}"
        )


def _check_same_model(path: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    if found != expected:
        different = [
            f"{name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        raise CheckpointError(
            f"the checkpoint {path} is of another model, {len(different)} of its arrays "
            f"differ: {listed(different)}"
        )


def _arrays(tree: Any) -> dict[str, str]:
    """Shape and dtype of every leaf, by its path in the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _numpy(state: Any) -> Any:
    return jax.tree.map(np.asarray, jax.device_get(state))


def _read_numbers(path: Path) -> dict[str, float]:
    """Numbers by name; a metric may be NaN."""
    found = read_json(path)
    if not isinstance(found, dict) or not all(
        isinstance(value, float) or is_finite(value) for value in found.values()
    ):
        raise ValueError(f"{path.name} must have numbers by name, got {shown(found)}")
    return found


def _set_aside(path: Path, reason: str) -> str:
    """Moves a damaged checkpoint out of the way: a later one will be of the same step."""
    target = path.parent.parent / "damaged" / path.name
    if is_primary():
        target.parent.mkdir(exist_ok=True)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{path.name}-{number}")
        path.rename(target)
    barrier(f"set aside {path.name}")
    return f"the checkpoint {path} is damaged ({reason}), and now in {target.parent}"


def _all_damaged(damaged: list[tuple[Path, str]]) -> CheckpointError:
    reasons = "; ".join(f"the checkpoint {path} is damaged: {why}" for path, why in damaged)
    return CheckpointError(f"{reasons}; there is no other: remove the run's folder to start anew")


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
