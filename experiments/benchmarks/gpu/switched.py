"""Repeats a smoke test with one setting changed, if that changes the program."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu.channel_steps import channels_of_a_step
from experiments.benchmarks.gpu.child import Reporter
from experiments.benchmarks.gpu.smoke import calls_of, single_kernels, smoke, traced
from experiments.benchmarks.gpu.timing import text_of


def switched(
    reporter: Reporter,
    case: Mapping[str, Any],
    kernel: str,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    one_step: bool,
) -> str:
    """Compares a kernel with float64, with one setting changed; see :func:`smoke.smoke`.

    Args:
        reporter: reporter that sends messages to the parent process.
        case: the case that failed, in JSON.
        kernel: name of the kernel that failed.
        seeds: seeds of the operands.
        settings: fields of ``mosaic_gpu.Settings`` to change.
        one_step: whether to reduce the channels to the number that a block processes in one step.

    Raises:
        NotImplementedError: the change does not change the program.
    """
    reporter.stage("tracing")
    given = Case.from_json(case)
    if one_step:
        channels = channels_of_a_step(given, kernel)
        if channels >= given.channels:
            raise NotImplementedError("does not apply: a block processes all channels in one step")
        given = given.replace(channels=channels)
    elif _text(given, kernel, settings) == _text(given, kernel, {}):
        raise NotImplementedError("does not apply: the program does not change")
    return smoke(reporter, [given.to_json()], kernel, seeds, settings)


def _text(case: Case, kernel: str, settings: Mapping[str, Any]) -> str:
    with single_kernels(settings):
        return text_of(traced(case, calls_of(case, kernel)[kernel]))
