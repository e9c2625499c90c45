"""Measures the speed of training."""

import time
from typing import NamedTuple

from experiments.engine.input import Input


class Speed(NamedTuple):
    """The speed of training over some steps.

    Attributes:
        steps_per_second: steps per second.
        images_per_second: images per second, of all processes together.
        data_wait: share of the time that was spent waiting for data, 0 to 1.
    """

    steps_per_second: float
    images_per_second: float
    data_wait: float


class Clock:
    """Measures the speed of training, excluding evaluations and checkpoints.

    Args:
        data: input, which counts the time spent waiting for batches.
        step: the last step before the measurement starts.
        batch_size: number of images in a step, over all processes.
    """

    def __init__(self, data: Input, step: int, batch_size: int) -> None:
        self._data, self._batch_size = data, batch_size
        self._start = time.monotonic()
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts a new measurement after ``step``."""
        self._step, self._began = step, time.monotonic()
        self._waited = self._data.seconds_waited

    def read(self, step: int) -> Speed | None:
        """Returns the speed since the last restart; None if no step was done since."""
        seconds = time.monotonic() - self._began
        if step == self._step or not seconds:
            return None
        steps_per_second = (step - self._step) / seconds
        waited = self._data.seconds_waited - self._waited
        return Speed(steps_per_second, self._batch_size * steps_per_second, waited / seconds)

    def since_start(self) -> dict[str, float]:
        """Returns the seconds since this clock was made, and the seconds of waiting for data."""
        seconds = time.monotonic() - self._start
        return {"seconds": seconds, "seconds_waiting": self._data.seconds_waited}
