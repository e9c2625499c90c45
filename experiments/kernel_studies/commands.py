"""The commands `replace-kernels` and `kernel-sums`, which are the same for every task.

They import the modules that do the work when they run; see :mod:`experiments.engine.commands`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.engine.commands import DATA, FOLDERS, WITHOUT_PREFIX, Commands, LoadSpec
from experiments.engine.folders import DataFolders
from experiments.engine.presets import Catalogue
from experiments.engine.settings import EvaluationConfig
from experiments.kernel_studies.names import KERNEL_SUMS, REPLACE_KERNELS

if TYPE_CHECKING:
    from experiments.kernel_studies.studied_network import StudiedNetwork

# A function of the config of a run, the folders of data and the settings of the evaluation, with
# the fields of the task's selection of images as keyword arguments.
MakeStudiedNetwork = Callable[..., "StudiedNetwork"]


@dataclasses.dataclass(frozen=True)
class ValidationImages:
    """The validation images, without a choice."""


def study_commands(
    catalogue: Catalogue[Any],
    load_spec: LoadSpec,
    load_studied_network: Callable[[], MakeStudiedNetwork],
    default: EvaluationConfig,
    selection: Any = ValidationImages(),
) -> Commands:
    """Returns the commands that study the kernels of the runs of a task, by name.

    Args:
        catalogue: catalogue of the task.
        load_spec: function that imports and returns the spec of the task; called when a command
            runs.
        load_studied_network: function that imports and returns a function from config, folders of
            data, settings of the evaluation, and the fields of ``selection`` as keyword arguments,
            to the network and its images; called when a command runs.
        default: default settings of the evaluation.
        selection: default of a frozen dataclass whose fields, as options, select images.
    """

    def replace_kernels(
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
        output: Path | None = None,
        images: Any = selection,
        folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
        evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = default,
    ) -> None:
        """Evaluates runs whose CARAFE++ layers use other kernels than they predict.

        There are five kinds of kernels. own: the predicted kernels. shuffled: kernels predicted for
        another image. shifted: kernels predicted for the position half a map away. mean: the mean
        of the kernels of each layer. box: box filters. Tables show the metrics of each kind, and
        their differences to the metrics of own.

        Args:
            runs: folders of one or more runs with CARAFE++, whose configs differ only in the seed.
            output: folder for results.json and table.md. The default is
                runs/TASK/replace-kernels/NAME, with the name of the runs without -seedN.
            images: selection of the images.
            folders: folders of data.
            evaluation: settings of the evaluation.
        """
        from experiments.kernel_studies.replacement_study import replace_kernels as replace

        make = load_studied_network()
        replace(
            load_spec().run_type,
            runs,
            lambda config: make(config, folders, evaluation, **vars(images)),
            catalogue.metrics,
            output or _default_output(REPLACE_KERNELS, runs),
            evaluation,
        )

    def kernel_sums(
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
        output: Path | None = None,
        images: Any = selection,
        folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
        evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = default,
    ) -> None:
        """Measures which share of the weight of kernels lies inside the map, near its border.

        The kernels of each CARAFE++ layer are compared with a box filter. Weight outside the map is
        lost, so that the map fades at its border.

        Args:
            runs: folders of one or more runs with CARAFE++, whose configs differ only in the seed.
            output: folder for results.json and table.md. The default is
                runs/TASK/kernel-sums/NAME, with the name of the runs without -seedN.
            images: selection of the images.
            folders: folders of data.
            evaluation: settings of the evaluation.
        """
        from experiments.kernel_studies.border_study import measure_borders

        make = load_studied_network()
        measure_borders(
            load_spec().run_type,
            runs,
            lambda config: make(config, folders, evaluation, **vars(images)),
            output or _default_output(KERNEL_SUMS, runs),
            evaluation,
        )

    def _default_output(study: str, runs: tuple[Path, ...]) -> Path:
        from experiments.kernel_studies.results import name_of

        return FOLDERS.runs / catalogue.task / study / name_of(runs)

    commands: Commands = {REPLACE_KERNELS: replace_kernels, KERNEL_SUMS: kernel_sums}
    for command in commands.values():
        command.__annotations__["images"] = Annotated[type(selection), WITHOUT_PREFIX]
    return commands
