"""Makes runs from weights that were trained in PyTorch."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import tensorflow_datasets as tfds

from experiments.classification.configs import ClassificationConfig
from experiments.classification.task import CLASSES, initial_variables, training_state
from experiments.classification.torch_weights import load_torch_resnet
from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, Checkpoints
from experiments.engine.claim import CONFIG, CONVERTED, check_name
from experiments.engine.json_files import write_json
from experiments.engine.step import first_carry


def convert(
    config: ClassificationConfig, weights: Path, output: Path, keep: tuple[str, ...] = ()
) -> None:
    """Writes a run whose checkpoint of step 0 holds weights from a file.

    The run can be evaluated, used for predictions, and trained further.

    Args:
        config: config of an ImageNet run.
        weights: file of the ``state_dict`` of a torchvision or timm ResNet.
        output: folder of the run; it must be new or empty.
        keep: parts of the network that keep their own initial values.

    Raises:
        ConfigError: the config is for another dataset; or ``output`` is not empty, or cannot be
            created.
        WeightsError: the file cannot be read, does not match the network, or has unusable values;
            or ``keep`` names a part that the network does not have.
    """
    configs.check(
        config.data.source == "imagenet2012", "data.source", "'imagenet2012'", config.data.source
    )
    free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    configs.check(free, "output", "a new or an empty folder", str(output))
    check_name(output)
    shapes = jax.eval_shape(lambda: initial_variables(config))
    variables = load_torch_resnet(weights, shapes, keep).variables
    if keep:  # drawn only if needed: it takes ten times as long as the rest
        variables = jax.tree.map(
            lambda loaded, drawn: drawn if isinstance(loaded, jax.ShapeDtypeStruct) else loaded,
            variables,
            initial_variables(config),
        )
    carry = first_carry(training_state(config, variables), config.training.seed)
    names = tfds.builder("imagenet2012", data_dir=output).info.features["label"].names
    with _completed_folder(output.absolute()) as folder:
        write_json(folder / CLASSES, names)
        checkpoints = Checkpoints(folder / CHECKPOINTS)
        time_spent = {"seconds": 0.0, "seconds_waiting": 0.0}
        checkpoints.save(0, jax.device_get(carry), None, time_spent)
        checkpoints.close()
        write_json(folder / CONVERTED, {"weights": weights.name, "kept": keep})
        configs.save(config, folder / CONFIG)


@contextlib.contextmanager
def _completed_folder(output: Path) -> Iterator[Path]:
    """Yields a folder that becomes ``output`` at the end; a killed process leaves no ``output``."""
    with contextlib.ExitStack() as stack:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(dir=output.parent, prefix=".converting-")
            folder = Path(stack.enter_context(temporary)) / output.name
            folder.mkdir()
        except OSError as error:
            expected = "a folder that can be created"
            raise configs.ConfigError(
                f"output must be {expected}, got {output}: {error.strerror}"
            ) from error
        yield folder
        folder.rename(output)
