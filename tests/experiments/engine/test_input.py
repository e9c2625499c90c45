import gc
import multiprocessing
import os
import signal
from contextlib import closing

import numpy as np
import pytest

from experiments.engine.input import Input, WorkerError
from tests.experiments.engine import toy


class EndedAt:
    """Ends the worker that reaches a given batch."""

    def __init__(self, number):
        self.number = number

    def __call__(self, batch):
        assert multiprocessing.parent_process() is not None, "runs in a worker"
        if np.any(batch["record"] >= 0):
            os.kill(os.getpid(), self.number)
        return batch


@pytest.fixture
def no_garbage():
    """Frees the semaphores of ended workers before others are created.

    Python cannot free them while it registers new ones (gh-109629), and reports an error.
    """
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize(
    ("number", "advice"), [(signal.SIGBUS, "/dev/shm"), (signal.SIGKILL, "fewer workers")]
)
def test_the_end_of_a_worker_is_reported_with_advice(number, advice):
    data = Input(toy.batches().map(EndedAt(number)), workers=1)
    with closing(data), pytest.raises(WorkerError, match=f"{number.name}.*{advice}"):
        next(data)
