"""Progress of a training: a bar on a terminal, or a line every 20 seconds in other outputs."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.engine.monitoring.speed import Speed
from experiments.engine.streams import discard_output
from experiments.engine.text import printable

_SECONDS_BETWEEN_LINES = 20.0


class _Console(Console):
    """A console whose reader may end, such as ``tee`` at ctrl-C: the run goes on without output."""

    def on_broken_pipe(self) -> None:
        """Discards this output and all later output, instead of ending the program."""
        self.quiet = True
        discard_output()


class TrainingProgress:
    """Shows step, images/s, remaining time, time spent waiting for data, and the last loss.

    If its reader ends, a training goes on without output.

    Args:
        title: name of the run.
        start: number of steps already done, after a resume.
        total: total number of steps.
        visible: whether anything is shown; true for one process only.
    """

    def __init__(self, title: str, start: int, total: int, visible: bool = True) -> None:
        self._console = _Console(quiet=not visible, markup=False, emoji=False)
        self._title, self._total = printable(title), total
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal or not visible,
        )
        self._task = self._bar.add_task(self._title, total=total, completed=start, state="")

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

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self._console.print(f"{self._title}: {printable(message)}", soft_wrap=True)

    def update(self, step: int, loss: float, speed: Speed) -> None:
        """Reports that ``step`` steps are done.

        Args:
            step: number of steps since the start of the run.
            loss: loss of the last step.
            speed: speed of the last steps.
        """
        state = (
            f"{speed.images_per_second:.4g} images/s, {speed.data_wait:.1%} waiting for data, "
            f"loss {loss:.4f}"
        )
        self._bar.update(self._task, completed=step, state=state)
        now = time.monotonic()
        due = now - self._last_line > _SECONDS_BETWEEN_LINES or step == self._total
        if due and not self._console.is_terminal:
            left = (self._total - step) / speed.steps_per_second
            self.say(f"step {step}/{self._total}, ETA {left:.0f} s, {state}")
            self._last_line = now
