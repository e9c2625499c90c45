"""Makes runs from weights of PyTorch's libraries, and such weights from runs."""

from pathlib import Path
from typing import get_args

import jax
import tensorflow_datasets as tfds

from experiments.classification.configs import ClassificationConfig
from experiments.classification.library import Library
from experiments.classification.task import (
    CLASSES,
    RUNS,
    initial_variables,
    training_state,
)
from experiments.classification.torch_weights import load_torch_resnet
from experiments.engine import config as configs
from experiments.engine.converted_runs import (
    check_output,
    read_rest,
    with_drawn,
    write_converted_run,
)
from experiments.engine.settings import CheckpointChoice
from experiments.weights.loading import unused_texts
from experiments.weights.resnets import classification_layout
from experiments.weights.saving import check_new, save


def convert(
    config: ClassificationConfig,
    weights: Path,
    output: Path,
    keep: tuple[str, ...] = (),
    library: Library = "torchvision",
) -> list[str]:
    """Writes a run whose checkpoint of step 0 holds weights from a file.

    The run can be evaluated, used for predictions, and trained further.

    Args:
        config: config of an ImageNet run.
        weights: file of the ``state_dict`` of a torchvision or timm ResNet.
        output: folder of the run; it must be new or empty.
        keep: parts of the network that keep their own initial values.
        library: library that wrote the file, which the run records.

    Returns:
        The reasons why the run does not use some arrays of the file; see
        :func:`experiments.weights.loading.unused_texts`.

    Raises:
        CheckpointError: the checkpoint cannot be written.
        ConfigError: the config is for another dataset; or ``output`` is not empty, or cannot be
            created or written to.
        WeightsError: the file cannot be read, does not match the network, or has unusable values;
            or ``keep`` names a part that the network does not have.
    """
    configs.check(
        config.data.source == "imagenet2012", "data.source", "'imagenet2012'", config.data.source
    )
    check_output(output)
    shapes = jax.eval_shape(lambda: initial_variables(config))
    loaded = load_torch_resnet(weights, shapes, keep)
    # Drawn only if needed: it takes ten times as long as the rest.
    variables = with_drawn(loaded.variables, lambda: initial_variables(config))
    names = tfds.builder("imagenet2012", data_dir=output).info.features["label"].names
    write_converted_run(
        output,
        config,
        training_state(config, variables),
        [weights],
        library,
        {CLASSES: names},
        loaded.rest,
        keep,
    )
    return unused_texts(loaded.unused)


def export(run: Path, output: Path, checkpoint: CheckpointChoice = "newest") -> None:
    """Writes the network of a run as the ``state_dict`` of a torchvision or timm ResNet.

    The modules that torchvision's networks lack, such as CARAFE++, have the names of this project.

    Args:
        run: folder of the run.
        output: new file.
        checkpoint: choice of the checkpoint.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: ``output`` exists.
        WeightsError: ``output`` cannot be written, or its suffix is not known.
    """
    check_new([output])
    state = RUNS.load(run, checkpoint).state
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    save([output], variables, classification_layout(), read_rest(run, *get_args(Library)))
