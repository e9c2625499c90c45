"""Kernels in Pallas' GPU interpreter, which finds races on both supported versions of JAX."""

import contextlib
from unittest import mock

from carafe_kernels import mosaic_gpu
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

from tests.compilation import few_optimizations


class RaceError(AssertionError):
    pass


@contextlib.contextmanager
def interpreted():
    """Runs kernels on the CPU, and raises `RaceError` if any accesses raced.

    The newest JAX can raise an error itself. The oldest only prints and sets a flag, which the next
    kernel would clear. Interpreted kernels spend their time in callbacks, so they are compiled with
    few optimisations.
    """
    states = []

    class RecordedState(gpu_callbacks.GPURaceDetectionState):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            states.append(self)

    gpu_callbacks.reset_gpu_interpret_mode_state()
    try:
        with (
            few_optimizations(),
            mock.patch.object(gpu_callbacks, "GPURaceDetectionState", RecordedState),
            mosaic_gpu.interpreted(detect_races=True),
        ):
            yield
        if any(state.races_found for state in states):
            raise RaceError("the interpreter found a race, and described it in the output")
    finally:
        gpu_callbacks.reset_gpu_interpret_mode_state()
