"""Makes runs from public UperNets and PSPNets, and files of their libraries from runs."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.data.ade20k_names import NAMES
from experiments.engine.config import check
from experiments.engine.converted_runs import check_output, read_rest, write_converted_run
from experiments.engine.settings import CheckpointChoice
from experiments.segmentation.conversion.libraries import in_backbone, layout
from experiments.segmentation.conversion.library import Library
from experiments.segmentation.conversion.networks import check_network, config_of, library_of
from experiments.segmentation.task import CLASSES, RUNS, initial_variables, training_state
from experiments.weights.loading import file_shapes, load, unused_texts
from experiments.weights.saving import check_new, save


def convert(weights: Sequence[Path], output: Path, library: Library | None = None) -> list[str]:
    """Writes a run whose checkpoint of step 0 holds a network that was trained on ADE20K.

    The config of the network is read from the names and shapes in the files. The run can be
    evaluated, used for predictions, and trained further.

    Args:
        weights: files of the network: one of mmseg, or the encoder's and the decoder's of
            CSAILVision, in any order.
        output: folder of the run; it must be new or empty.
        library: library that wrote the files; ``None`` to recognise it by their names.

    Returns:
        The reasons why the run does not use some arrays of the files; see
        :func:`experiments.weights.loading.unused_texts`.

    Raises:
        CheckpointError: the checkpoint cannot be written.
        ConfigError: ``output`` is not empty, or cannot be created or written to.
        WeightsError: a file cannot be read or has unusable values, or the files do not hold a
            UperNet or a PSPNet of the library for the classes of ADE20K.
    """
    check_output(output)
    shapes = file_shapes(weights)
    library = library or library_of([*shapes])
    config = config_of(library, shapes)
    variables = jax.eval_shape(lambda: initial_variables(config))
    loaded = load(weights, variables, layout(library, config.model))
    state = training_state(config, loaded.variables)
    write_converted_run(
        output, config, state, weights, library, {CLASSES: list(NAMES)}, loaded.rest
    )
    return unused_texts(loaded.unused)


def export(
    run: Path, library: Library, outputs: Sequence[Path], checkpoint: CheckpointChoice = "newest"
) -> None:
    """Writes the network of a run in the format of a library.

    Args:
        run: folder of the run.
        library: name of the library.
        outputs: new files: one for mmseg, the encoder's and then the decoder's for CSAILVision.
        checkpoint: choice of the checkpoint.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: a file exists, the number of files is wrong, or the library has no such
            network.
        WeightsError: a file cannot be written, or its suffix is not known.
    """
    count = 2 if library == "csail" else 1
    expected = "two files for csail, encoder and decoder" if count == 2 else f"one for {library}"
    check(len(outputs) == count, "output", expected, [*map(str, outputs)])
    check_new(outputs)
    model = RUNS.load_config(run).model
    check_network(library, model)
    state = RUNS.load(run, checkpoint).state
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    file_of = functools.partial(_file_of, library) if count == 2 else None
    save(outputs, variables, layout(library, model), read_rest(run, library), file_of)


def _file_of(library: Library, name: str) -> int:
    return 0 if in_backbone(library, name) else 1
