"""The training loop of every task: it claims a run, restores it, trains, saves and evaluates it."""

import contextlib
import dataclasses
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import grain
import jax
import numpy as np

from experiments.engine import checkpoints
from experiments.engine import config as configs
from experiments.engine.batch_fields import RECORD
from experiments.engine.checkpoints import CHECKPOINTS, Checkpoints, save_state
from experiments.engine.claim import FINISHED, claimed
from experiments.engine.distributed import is_primary
from experiments.engine.errors import Interrupted, UserError
from experiments.engine.evaluation import NonFiniteEvaluationError
from experiments.engine.input import Input, unreadable_records
from experiments.engine.interruption import Interruption
from experiments.engine.json_files import write_json
from experiments.engine.monitoring.environment import append_environment
from experiments.engine.monitoring.logs import METRICS, RunLogs, read_metrics
from experiments.engine.monitoring.plots import save_curves
from experiments.engine.monitoring.progress import TrainingProgress
from experiments.engine.monitoring.speed import Clock
from experiments.engine.monitoring.trace import Trace
from experiments.engine.parallel import check_batch_size, data_parallel, replicate
from experiments.engine.settings import Operation, TrainingConfig
from experiments.engine.step import Carry, TaskStep, first_carry, guarded

# Number of steps that may still run on the devices when the host reads the metrics of the oldest.
_STEPS_AHEAD = 2


class NonFiniteLossError(UserError, FloatingPointError):
    """The loss, a gradient or a parameter became NaN or infinite."""


class UnreadableRecordsError(UserError, RuntimeError):
    """More records of the dataset could not be read than is allowed."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A training task.

    Attributes:
        state: initial state, a pytree of arrays; the same on every process.
        step: function ``step(state, batch, key, number)`` that returns the next state and metrics,
            with ``loss`` among them; see :func:`experiments.engine.step.guarded`.
        dataset: batches of this process, without end; see :class:`experiments.engine.input.Input`.
        steps: total number of steps.
        evaluate: function from a state to metrics, the same on every process; every process calls
            it. Metrics with a ``/`` in their names are details of other metrics: they are logged,
            but not printed or drawn.
        best: name of the metric of ``evaluate`` that selects the best checkpoint; larger is better.
        files: contents of further files in the folder of the run, by file name; saved as JSON.
    """

    state: Any
    step: TaskStep
    dataset: grain.MapDataset
    steps: int
    evaluate: Callable[[Any], dict[str, float]] | None = None
    best: str | None = None
    files: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def train(
    folder: Path, config: Any, training: TrainingConfig, task: Task, operation: Operation
) -> Any:
    """Trains a task to its last step, from the newest checkpoint in ``folder`` if there is one.

    A run that was killed and started again continues with the same batches and gives the same
    numbers, bit for bit on a CPU. SIGTERM and ctrl-C end it after a checkpoint. A state is saved
    before it is evaluated: an evaluation that fails or is killed costs no training step, and is
    done first when the run is started again. ``experiments/README.md`` lists the files that are
    written.

    Args:
        folder: folder of the run; with several processes, it must be visible to all of them.
        config: config of the run, a frozen dataclass. It must equal the config in the folder.
        training: the part of ``config`` that the loop itself needs.
        task: task that is trained.
        operation: settings that say when to save, evaluate, log and stop.

    Returns:
        The final state.

    Raises:
        ConfigError: the devices cannot share the batch equally, or the folder cannot be claimed;
            see :func:`experiments.engine.claim.claimed`.
        CheckpointError: no checkpoint can be read, or one cannot be written.
        NonFiniteLossError: too many steps were not finite. The state before the last of them and
            the numbers of its records are saved in ``failure-<step>``.
        NonFiniteEvaluationError: the last evaluation was not finite; if an earlier one is not
            finite, it is only logged as an incident.
        UnreadableRecordsError: too many records could not be read.
        UnreadableEvaluationError: too many records of an evaluation could not be read.
        FolderError: the folder cannot be written to, or another command trains in it.
        LogError: a log of an earlier start is damaged.
        WorkerError: a process that prepares batches was killed.
        Interrupted: SIGTERM or SIGINT was received; the run is saved.
        KeyboardInterrupt: SIGINT was received a second time, before the run was saved.
    """
    check_batch_size(training.batch_size, training.accumulation)
    configs.check(task.steps >= 1, "length", "at least one step", task.steps)
    with claimed(folder, config, task.files):
        with contextlib.ExitStack() as stack:
            state = _Loop(folder, training, task, operation, stack).run()
        if is_primary():
            save_curves(folder / "curves.png", read_metrics(folder / METRICS))
            write_json(folder / FINISHED, {"step": task.steps})
    return state


class _Loop:
    """The part of one process in a run, from its start or resume to its end.

    Args:
        folder: folder of the run.
        training: batch size, seed and number of workers.
        task: task that is trained.
        operation: settings that say when to save, evaluate, log and stop.
        stack: exit stack that closes the input, the logs and everything else opened here.
    """

    def __init__(
        self,
        folder: Path,
        training: TrainingConfig,
        task: Task,
        operation: Operation,
        stack: contextlib.ExitStack,
    ) -> None:
        self._folder, self._task, self._operation = folder, task, operation
        self._data = stack.enter_context(closing(Input(task.dataset, training.workers)))
        carry: Carry = jax.device_get(first_carry(task.state, training.seed))
        restored = checkpoints.restore(folder / CHECKPOINTS, carry, self._data.iterator)
        self._start, self._seconds = 0, {"seconds": 0.0, "seconds_waiting": 0.0}
        self._evaluated = True
        if restored:
            carry, self._start = restored.state, restored.step
            self._seconds |= restored.progress
            self._evaluated = restored.metrics is not None
            _check_skipped(int(carry.skipped), operation.max_skipped_steps)
        self._counted = {"skipped": int(carry.skipped), "unreadable": int(carry.unreadable)}
        # Placed as the step returns it: another placement would need a second compilation.
        self._carry: Carry = replicate(carry)
        self._step = data_parallel(
            guarded(task.step, operation.max_skipped_steps), donate_state=True
        )
        # Number, metrics and host fields of the batch of each step that is running on the devices.
        self._running_steps: deque[tuple[int, dict[str, jax.Array], dict[str, np.ndarray]]] = (
            deque()
        )
        store = Checkpoints(
            folder / CHECKPOINTS, operation.keep_last, operation.keep_best, task.best
        )
        self._store = stack.enter_context(closing(store))
        self._logs = stack.enter_context(closing(RunLogs(folder, self._start, self._evaluated)))
        self._progress = stack.enter_context(
            TrainingProgress(folder.name, self._start, task.steps, visible=is_primary())
        )
        self._trace = stack.enter_context(closing(Trace(folder / "profile", operation)))
        self._interruption = stack.enter_context(Interruption())
        self._clock = Clock(self._data, self._start, training.batch_size)
        if is_primary():
            if self._start < task.steps:  # the run had finished, but lost its last state
                (folder / FINISHED).unlink(missing_ok=True)
            operated = dataclasses.asdict(operation)
            append_environment(folder / "environment.jsonl", step=self._start, operation=operated)
        for message in restored.damaged if restored else ():
            self._report(self._start, "damaged checkpoint", message)

    def run(self) -> Any:
        """Runs all remaining steps, and returns the final state."""
        operation, last = self._operation, self._task.steps
        if self._start >= last:
            self._progress.say(f"all {last} steps were already done")
        if not self._evaluated and self._evaluates(self._start):
            self._evaluate(self._start)
        for number in range(self._start + 1, last + 1):
            if self._trace.starts(number):
                self._finish_steps()
                self._trace.start()
            batch, host = next(self._data)
            self._carry, metrics = self._step(self._carry, batch)
            self._running_steps.append((number, metrics, host))
            self._finish_steps(leave=_STEPS_AHEAD)
            if self._trace.ends(number):
                self._finish_steps()
                self._trace.close()
            stops, evaluates = self._interruption.requested(number), self._evaluates(number)
            if stops or evaluates or _every(number, operation.checkpoint_every):
                self._finish_steps()
                self._save(number)
            if stops:
                self._interrupt(number, stops)
            if evaluates:
                self._evaluate(number)
        # The last evaluation may take long, and further runs may follow in this process.
        if stops := self._interruption.requested(last + 1):
            self._interrupt(last, stops)
        return self._carry.state

    def _interrupt(self, number: int, received: signal.Signals) -> NoReturn:
        raise Interrupted(
            f"{received.name} after step {number} of {self._task.steps}; it is saved, and the same "
            "command continues it",
            received,
        )

    def _evaluates(self, number: int) -> bool:
        return number == self._task.steps or _every(number, self._operation.evaluate_every)

    def _finish_steps(self, leave: int = 0) -> None:
        """Waits for all running steps except the last ``leave``, and checks their metrics."""
        while len(self._running_steps) > leave:
            number, arrays, host = self._running_steps.popleft()
            metrics = {name: value.item() for name, value in jax.device_get(arrays).items()}
            self._check_records(number, metrics, host)
            self._check_finite(number, metrics, host)
            if number == self._start + 1:
                self._clock.restart(number)  # the first step compiles
            if _every(number, self._operation.log_every) or number in (1, self._task.steps):
                self._logs.metrics(number, metrics)
                if speed := self._clock.read(number):
                    self._logs.timing(number, speed._asdict())
                    self._progress.update(number, metrics["loss"], speed)
                    self._clock.restart(number)

    def _check_records(
        self, number: int, metrics: dict[str, Any], host: dict[str, np.ndarray]
    ) -> None:
        if metrics["unreadable"] == self._counted["unreadable"]:
            return
        self._counted["unreadable"] = metrics["unreadable"]
        if numbers := unreadable_records(host):
            message = f"could not be read, and were replaced by others: {numbers}"
            self._report(number, "unreadable records", message, records=numbers)
        limit = self._operation.max_unreadable_records
        if metrics["unreadable"] > limit:
            raise UnreadableRecordsError(
                f"{metrics['unreadable']} records could not be read up to step {number}, and "
                f"max_unreadable_records allows {limit}; {self._folder}/incidents*.jsonl list them"
            )

    def _check_finite(
        self, number: int, metrics: dict[str, Any], host: dict[str, np.ndarray]
    ) -> None:
        if metrics["skipped"] == self._counted["skipped"]:
            return
        self._counted["skipped"] = metrics["skipped"]
        numbers = host[RECORD].tolist()
        bad = {name: value for name, value in metrics.items() if not np.isfinite(value)}
        message = f"not finite: {', '.join(f'{name} {value}' for name, value in bad.items())}"
        self._report(number, "skipped step", message, records=numbers)
        if metrics["skipped"] > self._operation.max_skipped_steps:
            folder = self._folder / f"failure-{number}"
            failed = {"step": number, "reason": message, "records": numbers}
            write_json(folder / f"batch-{jax.process_index()}.json", failed)
            # The devices have kept the state from before this step.
            if is_primary() and not (folder / "state").exists():
                save_state(folder / "state", self._carry.state)
            raise NonFiniteLossError(
                f"{message} at step {number}, and max_skipped_steps allows "
                f"{self._operation.max_skipped_steps}; the state before it and the numbers of "
                f"its records are in {folder}"
            )

    def _save(self, number: int) -> None:
        passed = self._clock.since_start()
        progress = {name: self._seconds[name] + passed[name] for name in passed}
        self._store.save(number, self._carry, self._data.iterator, progress)
        self._clock.restart(number)

    def _evaluate(self, number: int) -> None:
        """Evaluates the saved state, and adds the metrics to its checkpoint."""
        if self._task.evaluate is None:
            return
        try:
            metrics = self._task.evaluate(self._carry.state)
        except NonFiniteEvaluationError as error:
            if number == self._task.steps:
                raise
            # As after a skipped step, a later state may be better.
            self._report(number, "evaluation not finite", str(error))
            self._clock.restart(number)
            return
        # Logged before it is saved: a restart without metrics in the checkpoint drops these lines.
        self._logs.evaluation(number, metrics)
        self._store.add_metrics(number, metrics)
        printed = {name: value for name, value in metrics.items() if "/" not in name}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in printed.items())
        self._progress.say(f"evaluation after step {number}: {shown}")
        self._clock.restart(number)

    def _report(self, step: int, kind: str, message: str, **details: Any) -> None:
        """Writes an incident to the terminal and to the log."""
        self._logs.incident(step, kind, message=message, **details)
        self._progress.say(f"{kind}: {message}")


def _check_skipped(skipped: int, limit: int) -> None:
    # Beyond the limit every further step would keep the state unchanged, without a message.
    configs.check(
        skipped <= limit, "max_skipped_steps", f"at least the {skipped} steps skipped so far", limit
    )


def _every(number: int, interval: int) -> bool:
    return number > 0 and interval > 0 and number % interval == 0
