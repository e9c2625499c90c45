"""Checkpoints of a run, written by Orbax. Each is complete or absent; the newest and best are kept.

A checkpoint holds ``state`` (what the loop carries: model, optimiser, step, random key), ``data``
(the position of the iterator of each process), ``progress`` (elapsed time) and, once its state has
been evaluated, ``metrics``. States are read and written as NumPy arrays, so that they do not depend
on the devices.
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

# The name of the folder of checkpoints in the folder of a run.
CHECKPOINTS = "checkpoints"

_PROCESSES = "processes"
# The file with the metrics in a checkpoint. Orbax uses the same name.
_METRICS = "metrics/metrics"

# Exceptions that Orbax and TensorStore were seen to raise for truncated, altered or missing files.
_DAMAGE = (ValueError, KeyError, FileNotFoundError, NotADirectoryError)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing or damaged, belongs to another model, or could not be written."""


class Restored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        step: number of the last step before the checkpoint was written.
        state: a pytree of NumPy arrays.
        progress: counters that continue after a resume, such as the elapsed time.
        metrics: metrics of an evaluation of the state; None if it has not been evaluated.
        damaged: one message for each checkpoint that was preferred to this one and cannot be read.
    """

    step: int
    state: Any
    progress: dict[str, float]
    metrics: dict[str, float] | None
    damaged: tuple[str, ...] = ()


class _NewestAndBest:
    """An Orbax preservation policy: keeps the newest checkpoints and the ones with the best scores.

    It is given the scores separately: Orbax accepts metrics only when a checkpoint is saved, and a
    checkpoint is saved before its state is evaluated.
    """

    def __init__(self, keep_last: int, keep_best: int, scores: Mapping[int, float]) -> None:
        self._keep_last, self._keep_best, self._scores = keep_last, keep_best, scores

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Returns the steps whose checkpoints are kept."""
        scored = sorted(
            (step for step in steps if step in self._scores),
            key=lambda step: (self._scores[step], step),
        )
        best = scored[max(0, len(scored) - self._keep_best) :]
        return {*sorted(steps)[-self._keep_last :], *best}

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> list[bool]:
        """Returns whether each checkpoint is kept; called by Orbax."""
        del context
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Checkpoints:
    """Writes the checkpoints of one run.

    Args:
        folder: folder of the checkpoints, absolute or relative; it is created.
        keep_last: number of the newest checkpoints that are kept, at least 1.
        keep_best: number of checkpoints with the highest values of ``best`` that are also kept.
        best: name of a metric; None keeps checkpoints by age only.
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
        """Saves a checkpoint. Every process of the run must call this.

        Args:
            step: number of the last step that was done.
            state: a pytree of arrays.
            data: iterator of this process, whose position is saved; None at step 0, before it
                has been used.
            progress: counters that continue after a resume.

        Raises:
            CheckpointError: the checkpoint could not be written; older ones are untouched.
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
            kept = f"the newest complete one is of step {older[-1]}" if older else "there is none"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self._folder}: "
                f"{_first_line(error)}; {kept}"
            ) from error
        if is_primary():
            write_checksums(self._folder / str(step))

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to the checkpoint of their state. Every process of the run must call this.

        Then deletes the checkpoints that are neither among the newest nor among the best.

        Args:
            step: step of the checkpoint.
            metrics: metrics of an evaluation of the checkpoint's state, the same on every process.

        Raises:
            CheckpointError: the metrics could not be written; the checkpoint is unchanged.
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
        """Closes the checkpoint manager of Orbax."""
        self._manager.close()


def restore(folder: Path, state: Any, data: grain.DatasetIterator) -> Restored | None:
    """Restores the newest readable checkpoint, and moves ``data`` to the position saved in it.

    Newer checkpoints that cannot be read are moved to the folder ``damaged`` beside ``folder``.
    Every process of the run must call this; all restore the same checkpoint.

    Args:
        folder: folder of the checkpoints; it may be missing.
        state: a pytree that provides structure, shapes and dtypes of the state.
        data: iterator of this process, over the data with which the checkpoint was written.

    Returns:
        The restored checkpoint; None if there is no checkpoint.

    Raises:
        CheckpointError: no checkpoint can be read, or one belongs to another model.
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
            messages = tuple(_move_away(damaged_path, why) for damaged_path, why in damaged)
            return Restored(int(path.name), *restored, messages)
        damaged.append((path, reason))
    if damaged:
        raise _all_damaged(damaged)
    return None


def restore_state(folder: Path, state: Any, best: str | None = None) -> Restored:
    """Restores the state of the first readable checkpoint, without its data iterator.

    Args:
        folder: folder of the checkpoints.
        state: a pytree that provides structure, shapes and dtypes.
        best: name of a metric. Checkpoints with this metric are tried first, the highest value
            first, and then the others. By default the newest checkpoint is tried first.

    Raises:
        CheckpointError: there is no checkpoint, none can be read, or one belongs to another model.
    """
    tried: dict[Path, str] = {}
    while True:
        # Listed again each time, because an active run adds and deletes checkpoints meanwhile.
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
    """Returns the steps of the checkpoints in ``folder``, in ascending order."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def save_state(path: Path, state: Any) -> None:
    """Writes a state outside the checkpoints of a run; only the primary process calls this.

    Args:
        path: folder to create; it must not exist.
        state: a pytree of arrays.
    """
    with _independent_checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.StandardSave(_numpy(state)))


def _newest_first(folder: Path) -> Iterator[Path]:
    return (folder.absolute() / str(step) for step in reversed(steps_in(folder)))


def _independent_checkpointer(handler: Any) -> ocp.Checkpointer:
    """Returns a checkpointer that waits for no other process: a failure must not block the rest."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process_{jax.process_index()}",
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _read_state(path: Path, state: Any) -> Any:
    with _independent_checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        found = _arrays(checkpointer.metadata(path / "state").item_metadata)
        if not found:  # Orbax takes truncated metadata for empty metadata
            raise ValueError("its metadata cannot be read")
        _check_same_model(path, _arrays(state), found)
        template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), state)
        return checkpointer.restore(path / "state", args=ocp.args.StandardRestore(template))


def _read(path: Path, state: Any) -> tuple[Any, dict[str, float], dict[str, float] | None]:
    """Returns state, progress and metrics of a checkpoint."""
    verify_checksums(path)
    metrics = path / _METRICS
    return (
        _read_state(path, state),
        _read_numbers(path / "progress" / "metadata"),
        _read_numbers(metrics) if metrics.exists() else None,
    )


def _metrics_of(path: Path) -> dict[str, float] | None:
    """Returns the metrics of a checkpoint; None if there are none, or they cannot be read."""
    try:
        return _read_numbers(path / _METRICS)
    except _DAMAGE:
        return None


def _score(metrics: Mapping[str, float] | None, metric: str) -> float:
    """Returns the value of a metric; minus infinity if it is missing or NaN."""
    value = math.nan if metrics is None else metrics.get(metric, math.nan)
    return -math.inf if math.isnan(value) else value


def _check_processes(path: Path, progress: dict[str, float]) -> None:
    written, found = progress[_PROCESSES], jax.process_count()
    if int(path.name) and written != found:
        raise CheckpointError(
            f"the checkpoint {path} is of a run of {written} processes, each with its own position "
            f"in the data, and this run has {found}"
        )


def _check_same_model(path: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    if found != expected:
        different = [
            f"{name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        raise CheckpointError(
            f"the checkpoint {path} belongs to another model, {len(different)} of its arrays "
            f"differ: {listed(different)}"
        )


def _arrays(tree: Any) -> dict[str, str]:
    """Returns shape and dtype of every leaf, by its path in the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _numpy(state: Any) -> Any:
    return jax.tree.map(np.asarray, jax.device_get(state))


def _read_numbers(path: Path) -> dict[str, float]:
    """Reads numbers by name; a metric may be NaN."""
    found = read_json(path)
    if not isinstance(found, dict) or not all(
        isinstance(value, float) or is_finite(value) for value in found.values()
    ):
        raise ValueError(f"{path.name} must have numbers by name, got {shown(found)}")
    return found


def _move_away(path: Path, reason: str) -> str:
    """Moves a damaged checkpoint away, because a new one will have the same step."""
    target = path.parent.parent / "damaged" / path.name
    if is_primary():
        target.parent.mkdir(exist_ok=True)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{path.name}-{number}")
        path.rename(target)
    barrier(f"moved {path.name}")
    return f"the checkpoint {path} is damaged ({reason}), and was moved to {target.parent}"


def _all_damaged(damaged: list[tuple[Path, str]]) -> CheckpointError:
    reasons = "; ".join(f"the checkpoint {path} is damaged: {why}" for path, why in damaged)
    return CheckpointError(
        f"{reasons}; there is no other checkpoint: remove the folder of the run to start again"
    )


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
