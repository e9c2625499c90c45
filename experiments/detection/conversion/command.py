"""The command `convert`: checks its options, converts, and prints a report."""

from pathlib import Path

from experiments.detection.conversion.conversion import Converted, to_file, to_run, training_command
from experiments.detection.conversion.libraries import Library, Names
from experiments.engine.config import check
from experiments.engine.text import printable


def print_conversion(
    library: Library | None,
    weights: Path | None,
    to: Library | None,
    run: Path | None,
    output: Path | None,
    names: Names | None,
    norm_epsilon: float | None,
) -> None:
    """Converts a file to a run, or a run to a file; the arguments are the options of the command.

    Raises:
        ConfigError: options are missing or contradict each other, or cannot be used; see
            :func:`.conversion.to_run` and :func:`.conversion.to_file`.
        WeightsError: the file cannot be used; see :func:`.conversion.to_run`.
        CheckpointError: the run cannot be read.
    """
    given = f"--weights {weights} and --to {to}"
    check((weights is None) != (to is None), "convert", "given --weights or --to", printable(given))
    check(output is not None, "output", "given", None)
    assert output is not None
    if weights is not None:
        check(run is None, "run", "None with --weights: the output is the run", str(run))
        check(names is None, "names", "None with --weights: they are recognised", names)
        _report(to_run(weights, output, library, norm_epsilon))
        print(f"run            {printable(output)}")
        print(f"train further  {training_command(output)}")
        return
    assert to is not None
    check(library is None, "from", "None with --to", library)
    check(norm_epsilon is None, "norm_epsilon", "None with --to: the run has it", norm_epsilon)
    check(run is not None, "run", "given with --to", None)
    check(names is None or to == "torchvision", "names", "None unless --to is torchvision", names)
    assert run is not None
    _report(to_file(run, output, to, names))
    print(f"file           {printable(output)}")


def _report(done: Converted) -> None:
    old = ", names from before 0.13" if done.names == "old" else ""
    print(f"format         {done.library}{old}")
    print(f"network        {done.network}")
    print(f"used           {done.used} arrays")
    print(f"not used       {done.unused or 'none'}")
    for setting in done.settings:
        print(f"setting        {setting} in the run: {done.library} computes something else")
