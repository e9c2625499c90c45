"""Checkpoints of model, optimiser, step and data iterator, by Orbax."""

from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp


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
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_abstract(state)),
                    data=grain.checkpoint.CheckpointRestore(data),
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise _unreadable(self._folder / str(step), error) from error
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
    path = folder.absolute() / str(steps[-1]) / "state"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, _abstract(state))
    except Exception as error:  # as above
        raise _unreadable(path.parent, error) from error


def _abstract(state: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(
        f"the checkpoint {path} cannot be read: it is damaged, or of another model ({reason})"
    )
