"""Checkpoints of model, optimiser, step and data iterator, by Orbax."""

from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

_SHOWN = 3

# What Orbax and TensorStore were seen to raise for files that are cut off, altered or missing.
_DAMAGE = (ValueError, FileNotFoundError, KeyError)


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another model."""


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
        folder: is created; an absolute or a relative path.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: Any, data: grain.DatasetIterator) -> None:
        """Saves ``state`` and the position of ``data``; whole, or not at all."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(data)
            ),
        )

    def restore(self, state: Any, data: grain.DatasetIterator) -> tuple[int, Any]:
        """Restores the newest checkpoint, and moves ``data`` to where it was then.

        Args:
            state: gives structure, shapes and dtypes.
            data: an iterator over the data that the checkpoint was written with.

        Returns:
            The step and the state; step 0 and ``state`` itself if there is no checkpoint.

        Raises:
            CheckpointError: the checkpoint is damaged or of another model.
        """
        step = self._manager.latest_step()
        if step is None:
            return 0, state
        path = self._folder / str(step)
        try:
            _check_same_model(path / "state", state)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_abstract(state)),
                    data=grain.checkpoint.CheckpointRestore(data),
                ),
            )
        except _DAMAGE as error:
            others = [other for other in self._manager.all_steps() if other != step]
            hint = f"; remove it to go on from step {max(others)}" if others else ""
            raise CheckpointError(f"{_damaged(path, error)}{hint}") from error
        return step, restored["state"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def restore_state(folder: Path, state: Any) -> Any:
    """Restores the state of a run's newest checkpoint, without its data iterator.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another model.
    """
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if not steps:
        raise CheckpointError(f"{folder} holds no checkpoint")
    path = folder.absolute() / str(steps[-1])
    try:
        _check_same_model(path / "state", state)
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path / "state", _abstract(state))
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _abstract(state: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )


def _check_same_model(path: Path, state: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        found = _arrays(checkpointer.metadata(path).item_metadata)
    if not found:  # what Orbax makes of metadata that is cut off
        raise ValueError("its metadata cannot be read")
    expected = _arrays(state)
    if found != expected:
        different = [
            f"{name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        shown = "; ".join(different[:_SHOWN]) + ("; ..." if len(different) > _SHOWN else "")
        raise CheckpointError(
            f"the checkpoint {path.parent} is of another model, {len(different)} of its arrays "
            f"differ: {shown}"
        )


def _arrays(tree: Any) -> dict[str, str]:
    """Shape and dtype of every leaf, by its path in the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(f"the checkpoint {path} is damaged: {reason}")
