"""Converts, and prints a report."""

from pathlib import Path

from experiments.detection.conventions import Style
from experiments.detection.conversion.conversion import Converted, to_file, to_run, training_command
from experiments.detection.conversion.libraries import Library, Names
from experiments.engine.settings import CheckpointChoice
from experiments.engine.text import printable


def print_run(
    weights: Path,
    output: Path,
    library: Library | None,
    norm_epsilon: float | None,
    keep: tuple[str, ...],
    style: Style | None,
) -> None:
    """Converts a file to a run; see :func:`.conversion.to_run` for arguments and errors."""
    _report(to_run(weights, output, library, norm_epsilon, keep, style), "assumed")
    print(f"run            {printable(output)}")
    print(f"train further  {printable(training_command(output))}")


def print_file(
    run: Path, output: Path, library: Library, names: Names | None, checkpoint: CheckpointChoice
) -> None:
    """Converts a run to a file; see :func:`.conversion.to_file` for arguments and errors."""
    _report(to_file(run, output, library, names, checkpoint), "not in file")
    print(f"file           {printable(output)}")


def _report(done: Converted, not_in_file: str) -> None:
    early = {"torchvision": "names from before 0.13", "mmdet": "early names of offsets"}
    old = f", {early[done.library]}" if done.names == "old" else ""
    print(f"format         {done.library}{old}")
    print(f"network        {done.network}")
    print(f"used           {done.used} arrays")
    for each in done.unused or ("none",):
        print(f"not used       {each}")
    for each in done.not_in_file:
        print(f"{not_in_file:<15}{each}")
    for setting in done.settings:
        print(f"setting        {setting} in the run: {done.library} computes something else")
