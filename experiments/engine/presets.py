"""Presets: the rows of the paper's tables, as configs with a name."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True)
class Preset[Config]:
    """A config that someone may want to run as it is.

    Attributes:
        name: on the command line, such as ``table2-resnet50-carafe``.
        row: what it is, such as "Table 2, ResNet-50 w/ CARAFE++".
        config: what is trained.
        paper: the paper's score for it.
        measured: the score of a run of this preset, with the date and the devices.
        runtime: of such a run.
    """

    name: str
    row: str
    config: Config
    paper: str
    measured: str | None = None
    runtime: str | None = None

    def describe(self, task: str) -> str:
        """What ``--help`` tells of it: its command, runtime, the paper's score and ours."""
        return (
            f"{self.row}. Command: python -m experiments.{task} train {self.name} "
            f"--output runs/{self.name}. "
            f"Runtime: {self.runtime or 'not measured'}. Paper: {self.paper}. "
            f"Measured: {self.measured or 'not run yet'}."
        )


def subcommands[Config](task: str, presets: Iterable[Preset[Config]]) -> Any:
    """A type for tyro: one subcommand a preset, any field of which can be overridden.

    Args:
        task: the name of its package in ``experiments``.
        presets: at least two, with different names.
    """
    listed = list(presets)
    (config_type,) = {type(preset.config) for preset in listed}
    commands = [
        Annotated[
            config_type,
            tyro.conf.subcommand(
                name=preset.name, default=preset.config, description=preset.describe(task)
            ),
        ]
        for preset in listed
    ]
    union: Any = commands[0]
    for command in commands[1:]:
        union = union | command
    return union
