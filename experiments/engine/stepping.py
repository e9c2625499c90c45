"""One process's part in a run: stepping, looking at what came of it, and writing it down."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from experiments.engine.checkpoints import Checkpoints, save_state
from experiments.engine.distributed import is_primary
from experiments.engine.files import write_json
from experiments.engine.guard import Carry, TaskStep, guarded
from experiments.engine.input import CORRUPT, RECORD, Input
from experiments.engine.interruption import Interrupted, Interruption
from experiments.engine.logs import RunLogs
from experiments.engine.parallel import data_parallel
from experiments.engine.progress import TrainingProgress
from experiments.engine.settings import Operation

# Steps that may be under way on the devices before the host looks at the metrics of the first.
_STEPS_AHEAD = 2


class NonFiniteLossError(FloatingPointError):
    """The loss, a gradient or a parameter became NaN or infinite."""


class UnreadableRecordsError(RuntimeError):
    """More records of the data set could not be read than is allowed."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What there is to train.

    Attributes:
        state: initial state, a pytree of arrays; the same on every process.
        step: see :func:`experiments.engine.guard.guarded`.
        dataset: endless batches of this process; see :class:`experiments.engine.input.Input`.
        steps: number of steps in all.
        evaluate: from a state to metrics; every process calls it and gets the same. Those with a
            ``/`` in their name are parts of others: they are logged, but not printed or drawn.
        best: the metric of ``evaluate`` by which the best checkpoint is known, larger is better.
        files: what is saved as JSON in the run's folder, by the name of the file.
    """

    state: Any
    step: TaskStep
    dataset: grain.MapDataset
    steps: int
    evaluate: Callable[[Any], dict[str, float]] | None = None
    best: str | None = None
    files: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Loop:
    """One process's part in a run, from its start or resume on."""

    def __init__(
        self,
        *,
        folder: Path,
        batch_size: int,
        task: Task,
        operation: Operation,
        data: Input,
        carry: Carry,
        start: int,
        store: Checkpoints,
        logs: RunLogs,
        progress: TrainingProgress,
        interruption: Interruption,
        totals: dict[str, float],
    ) -> None:
        self._folder, self._batch_size = folder, batch_size
        self._task, self._operation = task, operation
        self._data, self._carry, self._start = data, carry, start
        self._store, self._logs, self._progress = store, logs, progress
        self._interruption = interruption
        self._step = data_parallel(guarded(task.step, operation.max_skipped_steps), True)
        self._under_way: deque[tuple[int, dict[str, jax.Array], dict[str, np.ndarray]]] = deque()
        self._counted = {name: int(carry[name]) for name in ("skipped", "unreadable")}
        self._totals = {"seconds": 0.0, "seconds_waiting": 0.0, **totals}
        self._clock = _Clock(data, start)
        self._traced_until: int | None = None

    def run(self, evaluated: bool) -> Any:
        """Steps until the end; returns the final state.

        Args:
            evaluated: whether the state at the start needs no evaluation any more. One that was
                saved in haste, on SIGTERM, may have missed it.
        """
        if not evaluated and self._evaluates(self._start):
            self._evaluate(self._start)
        try:
            self._step_to_the_end()
        finally:
            self._stop_trace()
        return self._carry["state"]

    def _step_to_the_end(self) -> None:
        operation, last = self._operation, self._task.steps
        for number in range(self._start + 1, last + 1):
            if number == operation.profile_at:
                self._settle()
                jax.profiler.start_trace(str(self._folder / "profile"))
                self._traced_until = number + operation.profile_steps - 1
            batch, host = next(self._data)
            self._carry, metrics = self._step(self._carry, batch)
            self._under_way.append((number, metrics, host))
            self._settle(leave=_STEPS_AHEAD)
            if number == self._traced_until:
                self._settle()
                self._stop_trace()
            stops = self._interruption.requested(number)
            evaluates = self._evaluates(number)
            if stops or evaluates or _every(number, operation.checkpoint_every):
                self._settle()
                self._save(number, self._evaluate(number) if evaluates and not stops else None)
            if stops:
                raise Interrupted(
                    f"SIGTERM after step {number} of {last}: saved; the same command goes on"
                )

    def _evaluates(self, number: int) -> bool:
        return number == self._task.steps or _every(number, self._operation.evaluate_every)

    def _stop_trace(self) -> None:
        if self._traced_until is not None:
            self._traced_until = None
            jax.profiler.stop_trace()

    def report(self, step: int, kind: str, message: str, **details: Any) -> None:
        """Tells of an incident, on the terminal and in the log."""
        self._logs.incident(step, kind, message=message, **details)
        self._progress.say(f"{kind}: {message}")

    def _settle(self, leave: int = 0) -> None:
        """Looks at the metrics of all steps under way but the last ``leave``."""
        while len(self._under_way) > leave:
            number, arrays, host = self._under_way.popleft()
            metrics = {name: value.item() for name, value in jax.device_get(arrays).items()}
            self._check_records(number, metrics, host)
            self._check_finite(number, metrics, host)
            if number == self._start + 1:
                self._clock.restart(number)  # the first step compiles
            every = self._operation.log_every
            if _every(number, every) or number in (1, self._task.steps):
                self._logs.metrics(number, metrics)
                if timing := self._clock.read(number, self._batch_size):
                    self._logs.timing(number, timing)
                    self._progress.update(number, metrics["loss"], timing)
                    self._clock.restart(number)

    def _check_records(
        self, number: int, metrics: dict[str, Any], host: dict[str, np.ndarray]
    ) -> None:
        if metrics["unreadable"] == self._counted["unreadable"]:
            return
        self._counted["unreadable"] = metrics["unreadable"]
        if CORRUPT in host and (numbers := host[CORRUPT][host[CORRUPT] >= 0].tolist()):
            message = f"cannot be read, and others were taken: {numbers}"
            self.report(number, "unreadable records", message, records=numbers)
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
        numbers = host[RECORD].tolist() if RECORD in host else None
        bad = {name: value for name, value in metrics.items() if not np.isfinite(value)}
        message = f"not finite: {', '.join(f'{name} {value}' for name, value in bad.items())}"
        self.report(number, "skipped step", message, records=numbers)
        if metrics["skipped"] > self._operation.max_skipped_steps:
            folder = self._folder / f"failure-{number}"
            failed = {"step": number, "reason": message, "records": numbers}
            write_json(folder / f"batch-{jax.process_index()}.json", failed)
            # The devices have left the state as it was before this step.
            if is_primary() and not (folder / "state").exists():
                save_state(folder / "state", self._carry["state"])
            raise NonFiniteLossError(
                f"{message} at step {number}, and max_skipped_steps allows "
                f"{self._operation.max_skipped_steps}; the state before it and what is known "
                f"of its records are in {folder}"
            )

    def _evaluate(self, number: int) -> dict[str, float] | None:
        if self._task.evaluate is None:
            return None
        metrics = self._task.evaluate(self._carry["state"])
        self._logs.metrics(number, {f"eval/{name}": value for name, value in metrics.items()})
        whole = {name: value for name, value in metrics.items() if "/" not in name}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in whole.items())
        self._progress.say(f"evaluation after step {number}: {shown}")
        return metrics

    def _save(self, number: int, metrics: dict[str, float] | None) -> None:
        passed = self._clock.since_start()
        progress = {name: self._totals[name] + passed[name] for name in passed}
        self._store.save(number, self._carry, self._data.iterator, progress, metrics)
        self._clock.restart(number)


class _Clock:
    """Measures the speed of training, without evaluations and checkpoints."""

    def __init__(self, data: Input, step: int) -> None:
        self._data = data
        self._start = time.monotonic()
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()
        self._waited = self._data.seconds_waited

    def read(self, step: int, batch_size: int) -> dict[str, float]:
        """Speed since the last restart; nothing if there was no step since."""
        seconds = time.monotonic() - self._began
        if step == self._step or not seconds:
            return {}
        steps_per_second = (step - self._step) / seconds
        return {
            "steps_per_second": steps_per_second,
            "images_per_second": batch_size * steps_per_second,
            "data_wait": (self._data.seconds_waited - self._waited) / seconds,
        }

    def since_start(self) -> dict[str, float]:
        seconds = time.monotonic() - self._start
        return {"seconds": seconds, "seconds_waiting": self._data.seconds_waited}


def _every(number: int, interval: int) -> bool:
    return interval > 0 and number % interval == 0
