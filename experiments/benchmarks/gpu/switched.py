"""A smoke test again with one thing changed, if that changes the program."""

from collections.abc import Mapping, Sequence
from typing import Any

from carafe_kernels import mosaic_gpu

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.channel_steps import channels_of_a_step
from experiments.benchmarks.gpu.child import Tell
from experiments.benchmarks.gpu.smoke import calls_of, smoke, traced
from experiments.benchmarks.gpu.timing import text_of


def switched(
    tell: Tell,
    case: Mapping[str, Any],
    kernel: str,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    one_step: bool,
) -> str:
    """Compares a kernel with float64, see :func:`smoke.smoke`.

    Args:
        tell: sends messages.
        case: that failed.
        kernel: that failed.
        seeds: of the operands.
        settings: of ``mosaic_gpu.Settings``, other than the default.
        one_step: whether to take as many channels only as a block takes at a time.

    Raises:
        NotImplementedError: the kernel is the same with the change as without it.
    """
    tell.stage("tracing")
    given = Case.from_json(case)
    if one_step:
        channels = channels_of_a_step(given, kernel)
        if channels >= given.channels:
            raise NotImplementedError("does not apply: a block takes all channels at once")
        given = given.replace(channels=channels)
    elif _text(given, kernel, settings) == _text(given, kernel, {}):
        raise NotImplementedError("does not apply: the program stays as it is")
    return smoke(tell, [given.to_json()], kernel, seeds, settings)


def _text(case: Case, kernel: str, settings: Mapping[str, Any]) -> str:
    with mosaic_gpu.using(**settings):
        return text_of(traced(case, calls_of(case, kernel)[kernel]))
