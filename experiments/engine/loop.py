"""The life of a run, the same for every task: claimed, restored, stepped, and closed."""

import contextlib
import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from experiments.engine import checkpoints
from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, Checkpoints
from experiments.engine.distributed import all_agree, barrier, is_primary
from experiments.engine.environment import append_environment
from experiments.engine.files import write_json
from experiments.engine.guard import Carry, first_carry
from experiments.engine.input import Input
from experiments.engine.interruption import Interruption
from experiments.engine.logs import METRICS, RunLogs
from experiments.engine.metrics import read_metrics
from experiments.engine.parallel import check_batch_size, replicate
from experiments.engine.plots import save_curves
from experiments.engine.progress import TrainingProgress
from experiments.engine.settings import Operation, TrainingConfig
from experiments.engine.stepping import Loop, Task


def train(
    folder: Path, config: Any, training: TrainingConfig, task: Task, operation: Operation
) -> Any:
    """Trains a task to its last step, from the newest checkpoint in ``folder`` if there is one.

    Killed at any moment and started again, a run goes on with the same batches and gives the same
    numbers, to the bit on a CPU. SIGTERM ends it after a checkpoint. For what is in the folder then
    see ``experiments/README.md``.

    Args:
        folder: of the run; with several processes, one that all of them see.
        config: of the run; a frozen dataclass. It must equal the one in the folder.
        training: the part of ``config`` that the loop itself needs.
        task: what to train.
        operation: how to look after the run.

    Returns:
        The final state.

    Raises:
        ConfigError: the batch cannot be shared by the devices, or the folder holds a run with
            another config.
        CheckpointError: no checkpoint can be read, or one cannot be written.
        NonFiniteLossError: too many steps were not finite. The state before the last of them and
            the numbers of its records are saved in ``failure-<step>``.
        UnreadableRecordsError: too many records could not be read.
        Interrupted: SIGTERM came; the run is saved.
    """
    check_batch_size(training.batch_size, training.accumulation)
    configs.check(task.steps >= 1, "length", "at least one step", task.steps)
    _claim(folder, config, task.files)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(closing(Input(task.dataset, training.workers)))
        carry: Carry = jax.device_get(first_carry(task.state, training.seed))
        restored = checkpoints.restore(folder / CHECKPOINTS, carry, data.iterator)
        start = restored.step if restored else 0
        if restored:
            _check_limit(restored.state, operation)
        store = Checkpoints(
            folder / CHECKPOINTS, operation.keep_last, operation.keep_best, task.best
        )
        loop = Loop(
            folder=folder,
            batch_size=training.batch_size,
            task=task,
            operation=operation,
            data=data,
            # As the step returns it, for another placement would be compiled for once more.
            carry=replicate(restored.state if restored else carry),
            start=start,
            store=stack.enter_context(closing(store)),
            logs=stack.enter_context(closing(RunLogs(folder, start))),
            progress=stack.enter_context(
                TrainingProgress(folder.name, start, task.steps, visible=is_primary())
            ),
            interruption=stack.enter_context(Interruption()),
            totals=restored.progress if restored else {},
        )
        if is_primary():
            operated = dataclasses.asdict(operation)
            append_environment(folder / "environment.jsonl", step=start, operation=operated)
        for message in restored.damaged if restored else ():
            loop.report(start, "damaged checkpoint", message)
        state = loop.run(evaluated=restored is None or restored.metrics is not None)
    if is_primary():
        save_curves(folder / "curves.png", read_metrics(folder / METRICS))
    return state


def _check_limit(carry: Carry, operation: Operation) -> None:
    # Past the limit every step would leave the state as it is, and say nothing.
    skipped, limit = int(carry["skipped"]), operation.max_skipped_steps
    configs.check(
        skipped <= limit, "max_skipped_steps", f"at least the {skipped} steps skipped so far", limit
    )


def _claim(folder: Path, config: Any, files: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    if is_primary() and not path.exists():
        orphaned = checkpoints.steps_in(folder / CHECKPOINTS)
        configs.check(not orphaned, "the folder", "without checkpoints of no config", str(folder))
        configs.save(config, path)
    barrier("config saved")
    configs.check(path.exists(), "the folder", "one that all processes see", str(folder))
    changed = configs.differences(configs.load(type(config), path), config)
    agreed = all_agree(not changed)
    if changed:
        raise configs.ConfigError(
            f"{folder} holds a run with another config ({'; '.join(changed)}): "
            "name another folder, or remove this one"
        )
    if not agreed:
        raise configs.ConfigError(f"another process was started with another config than {path}")
    if is_primary():
        for name, content in files.items():
            write_json(folder / name, content)
