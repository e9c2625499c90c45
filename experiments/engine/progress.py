"""How far training is: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 20.0


class _StepsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} steps/s")


class TrainingProgress:
    """Shows step, steps/s, time left and the latest loss.

    Args:
        title: names the run.
        start: the step to begin at, after a resume.
        total: the number of steps.
    """

    def __init__(self, title: str, start: int, total: int) -> None:
        self._console = Console()
        self._title, self._start, self._total = title, start, total
        self._began = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _StepsPerSecond(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, loss=float("nan"))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float) -> None:
        """Reports that ``step`` steps are done."""
        self._bar.update(self._task, completed=step, loss=loss)
        now = time.monotonic()
        due = now - self._last_line > _SECONDS_BETWEEN_LINES or step == self._total
        if due and not self._console.is_terminal:
            speed = (step - self._start) / (now - self._began)
            self._console.print(
                f"{self._title}: step {step}/{self._total}, {speed:.1f} steps/s, "
                f"ETA {(self._total - step) / speed:.0f} s, loss {loss:.4f}"
            )
            self._last_line = now
