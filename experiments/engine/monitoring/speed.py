"""How fast a training is."""

import time
from typing import NamedTuple

from experiments.engine.input import Input


class Speed(NamedTuple):
    """The speed of training over some steps.

    Attributes:
        steps_per_second: of this run.
        images_per_second: of all processes.
        data_wait: share of the time that was spent waiting for data.
    """

    steps_per_second: float
    images_per_second: float
    data_wait: float


class Clock:
    """Measures the speed of training, without evaluations and checkpoints.

    Args:
        data: the batches, and the time that was spent waiting for them.
        step: the last step before the first that is measured.
        batch_size: images of a step, over all processes.
    """

    def __init__(self, data: Input, step: int, batch_size: int) -> None:
        self._data, self._batch_size = data, batch_size
        self._start = time.monotonic()
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measures from ``step`` on."""
        self._step, self._began = step, time.monotonic()
        self._waited = self._data.seconds_waited

    def read(self, step: int) -> Speed | None:
        """The speed since the last restart; None if there was no step since."""
        seconds = time.monotonic() - self._began
        if step == self._step or not seconds:
            return None
        steps_per_second = (step - self._step) / seconds
        waited = self._data.seconds_waited - self._waited
        return Speed(steps_per_second, self._batch_size * steps_per_second, waited / seconds)

    def since_start(self) -> dict[str, float]:
        """Seconds since this process started the run, and those of them spent on waiting."""
        seconds = time.monotonic() - self._start
        return {"seconds": seconds, "seconds_waiting": self._data.seconds_waited}
