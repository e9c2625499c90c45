"""Model, training and inference of the segmentation task (section 5.1)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from experiments.classification.backbone import backbone_folder, with_backbone
from experiments.data.label_maps import LabelMaps
from experiments.engine import optimization, step
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.claim import has_checkpoints
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.folders import Folders
from experiments.engine.json_files import read_json
from experiments.engine.loop import Task, train
from experiments.engine.parallel import AXIS, check_batch_size
from experiments.engine.runs import RunType
from experiments.engine.settings import EvaluationConfig, Operation, evaluation_in_training
from experiments.engine.step import State, TaskStep, draw_variables, initial_key, supervised_step
from experiments.engine.text import printable, shown
from experiments.models.input_normalization import normalize
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.batches import evaluation_batches, training_batches
from experiments.segmentation.data.config import Split
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.data.shapes import evaluation_shapes, training_shapes
from experiments.segmentation.evaluation.evaluator import SegmentationEvaluator
from experiments.segmentation.losses import make_loss_function
from experiments.segmentation.model.segmenter import Segmenter

CLASSES = "classes.json"


def make_model(config: SegmentationConfig) -> Segmenter:
    """The network of a config. ``"sync_batch"`` synchronises BatchNorm over the mapped axis."""
    norms = {config.model.norm, config.model.backbone.norm}
    return Segmenter(
        config.model,
        num_classes=config.data.classes,
        dtype=jnp.dtype(config.dtype),
        axis_name=AXIS if "sync_batch" in norms else None,
    )


def initial_variables(config: SegmentationConfig) -> Any:
    """Parameters and batch statistics at step 0; they depend on the config only."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    key = initial_key(config.training.seed)
    return draw_variables(make_model(config), key, image, method="layers")


def training_state(config: SegmentationConfig, variables: Any) -> State:
    """The initial state of a run that starts from ``variables``."""
    # The state does not contain the learning rate, so any number of steps will do.
    optimizer, _ = make_optimizer(config, steps_per_epoch=1000)
    return step.initial_state(variables["params"], variables["batch_stats"], optimizer)


def initial_state(config: SegmentationConfig) -> State:
    """The state of a run at step 0, with random weights in the backbone."""
    return training_state(config, initial_variables(config))


RUNS = RunType(SegmentationConfig, initial_state, best="mIoU")


def make_optimizer(
    config: SegmentationConfig, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of a config, and its learning rate."""
    training = config.training
    rate = optimization.learning_rate(
        training.optimizer, training.schedule, training.batch_size, steps_per_epoch
    )
    return optimization.make_optimizer(training.optimizer, rate), rate


def train_step(config: SegmentationConfig, steps_per_epoch: int) -> TaskStep:
    """The training step of a config; see :func:`experiments.engine.step.supervised_step`."""
    optimizer, rate = make_optimizer(config, steps_per_epoch)
    loss = make_loss_function(make_model(config), config.loss)
    return supervised_step(loss, optimizer, rate, config.training.accumulation)


def segment(
    model: Segmenter, state: State, image: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch rows columns classes"]:
    """The logits of uint8 images, with running averages; see :class:`.model.segmenter.Segmenter`.

    Args:
        model: network of the run.
        state: state of the run, with ``params`` and ``model_state``.
        image: RGB images, uint8 ``[B, H, W, 3]``.
    """
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    return model.apply(variables, normalize(image, model.config.backbone.input))


def make_evaluator(
    config: SegmentationConfig,
    data: LabelMaps,
    evaluation: EvaluationConfig,
    split: Split = "validation",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> SegmentationEvaluator:
    """The evaluator of a config's network on all images of a split.

    Args:
        config: config of the run.
        data: dataset of the config.
        evaluation: batch size, workers, and the largest number of unreadable images.
        split: split whose images are evaluated.
        scales: factors of the size at which images are segmented; the probabilities of all sizes
            are averaged.
        flip: whether the probabilities of the mirrored images are averaged as well.

    Raises:
        ConfigError: the processes cannot share a batch equally.
    """
    model = make_model(config)
    return SegmentationEvaluator(
        lambda state, image: segment(model, state, image),
        evaluation_batches(data, config.data, evaluation.batch_size, scales, split),
        data.source(split),
        data.class_names,
        flip=flip,
        workers=evaluation.workers,
        max_unreadable_records=evaluation.max_unreadable_records,
    )


def train_run(
    config: SegmentationConfig, folder: Path, folders: Folders, operation: Operation
) -> State:
    """Trains a run in ``folder``, or resumes it; see :func:`experiments.engine.loop.train`.

    Args:
        config: config of the run.
        folder: folder of the run.
        folders: folders of the data and of all runs.
        operation: settings of logging, checkpoints and evaluation of the run.

    Raises:
        CheckpointError: the classification run that initialises the backbone cannot be read.
        ConfigError: the run of the backbone has a different network, or no preset trains this
            backbone.
        DataError: the dataset is missing or damaged.
    """
    training = config.training
    check_batch_size(training.batch_size, training.accumulation)
    backbone = config.model.backbone
    source = None
    if config.pretrained:
        source = backbone_folder(backbone, config.backbone_from, folders.runs)
    data = primary_first(lambda: open_data(config.data, folders))
    if is_primary():
        print(
            f"training images: {len(data.train)}, shapes: at most "
            f"{len(training_shapes(config.data))}; validation images: {len(data.validation)}, "
            f"shapes: {len(evaluation_shapes(data.sizes['validation'], config.data))}"
        )
    steps_per_epoch = max(1, len(data.train) // training.batch_size)
    evaluate = make_evaluator(config, data, evaluation_in_training(training, operation))
    state = initial_state(config)
    if source is not None and not has_checkpoints(folder):
        if is_primary():
            print(f"the backbone is initialised from {printable(source)}")
        variables = {"params": state["params"], "batch_stats": state["model_state"]}
        state = training_state(config, with_backbone(variables, source, backbone))
    task = Task(
        state=state,
        step=train_step(config, steps_per_epoch),
        dataset=training_batches(data, config.data, training.batch_size, training.seed),
        steps=training.schedule.steps(training.schedule.length, steps_per_epoch),
        evaluate=evaluate,
        best=RUNS.best,
        files={CLASSES: list(data.class_names)},
    )
    return train(folder, config, training, task, operation)


def read_class_names(folder: Path, count: int) -> tuple[str, ...]:
    """The names of the classes of a run, by number.

    Args:
        folder: folder of the run.
        count: number of the run's classes.

    Raises:
        CheckpointError: the names cannot be read, or their number is not ``count``.
    """
    path = folder / CLASSES
    try:
        names = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must hold the names of the classes: {error}") from error
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not fits or len(names) != count:
        raise CheckpointError(f"{path} must hold the {count} names of classes, got {shown(names)}")
    return tuple(names)
