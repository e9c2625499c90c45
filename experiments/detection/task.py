"""Model, training and inference of the detection task (section 5.1)."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.classification.backbone import backbone_folder, with_backbone
from experiments.data.classes import num_classes
from experiments.data.coco_annotations import Category, parse_categories
from experiments.data.errors import DataError
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.batches import evaluation_batches, training_batches
from experiments.detection.data.config import Split
from experiments.detection.data.datasets import DetectionData, open_data
from experiments.detection.evaluation.evaluator import DetectionEvaluator
from experiments.detection.evaluation.ground_truth import read_ground_truth
from experiments.detection.losses import make_loss_function
from experiments.detection.model.detector import Detections, Detector, is_frozen
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
from experiments.engine.text import printable
from experiments.models.input_normalization import normalize

CATEGORIES = "categories.json"


def make_model(config: DetectionConfig) -> Detector:
    """The network of a config. ``"sync_batch"`` synchronises BatchNorm over the mapped axis."""
    return Detector(
        config.model,
        num_classes=num_classes(config.data.source),
        dtype=jnp.dtype(config.dtype),
        axis_name=AXIS if config.model.backbone.norm == "sync_batch" else None,
    )


def initial_variables(config: DetectionConfig) -> Any:
    """Parameters and batch statistics at step 0; they depend on the config only."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    key = initial_key(config.training.seed)
    return draw_variables(make_model(config), key, image, method="layers")


def training_state(config: DetectionConfig, variables: Any) -> State:
    """The initial state of a run that starts from ``variables``."""
    # The state does not contain the learning rate, so any number of steps will do.
    optimizer, _ = make_optimizer(config, steps_per_epoch=1000)
    return step.initial_state(
        variables["params"], {"batch_stats": variables["batch_stats"]}, optimizer
    )


def initial_state(config: DetectionConfig) -> State:
    """The state of a run at step 0, with random weights in the backbone."""
    return training_state(config, initial_variables(config))


RUNS = RunType(DetectionConfig, initial_state, best="box_AP")


def make_optimizer(
    config: DetectionConfig, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of a config, and its learning rate. Frozen stages have no weight decay."""
    training = config.training
    rate = optimization.learning_rate(
        training.optimizer, training.schedule, training.batch_size, steps_per_epoch
    )
    frozen = functools.partial(is_frozen, config=config.model)
    return optimization.make_optimizer(training.optimizer, rate, frozen), rate


def train_step(config: DetectionConfig, steps_per_epoch: int) -> TaskStep:
    """The training step of a config; see :func:`experiments.engine.step.supervised_step`."""
    optimizer, rate = make_optimizer(config, steps_per_epoch)
    loss = make_loss_function(make_model(config), config)
    return supervised_step(loss, optimizer, rate, config.training.accumulation)


def detect(model: Detector, state: State, image: jax.Array, size: jax.Array) -> Detections:
    """The detections in uint8 images; see :class:`.model.detector.Detector`."""
    variables = {"params": state["params"], **state["model_state"]}
    return model.apply(variables, normalize(image, model.config.backbone.input, size), size)


def make_evaluator(
    config: DetectionConfig,
    data: DetectionData,
    evaluation: EvaluationConfig,
    split: Split = "validation",
) -> DetectionEvaluator:
    """The evaluator of a config's detector on all images of a split.

    Args:
        config: config of the run.
        data: dataset of the config.
        evaluation: batch size, workers, and the largest number of unreadable images.
        split: split of the images; ``"test"`` has no annotated objects, so only results can be
            computed.

    Raises:
        DataError: there is no such split; or it has no objects and is not ``"test"``; or the
            network has masks, and an object has none.
    """
    model = make_model(config)
    source = data.source(split)
    ground_truth = read_ground_truth(source, data.categories)
    if split != "test" and not ground_truth.has_objects:
        raise DataError(f"{data.folder} must have objects to find in {split}, got none")
    if config.model.masks and (lacking := ground_truth.without_masks):
        raise DataError(
            f"{data.folder} must have a mask of each object in {split} for a network with masks, "
            f"got {lacking} objects without a mask"
        )
    return DetectionEvaluator(
        lambda state, batch: detect(model, state, batch["image"], batch["size"]),
        evaluation_batches(source, data.index(split), config.data, evaluation.batch_size),
        ground_truth,
        masks=config.model.masks,
        workers=evaluation.workers,
        max_unreadable_records=evaluation.max_unreadable_records,
    )


def train_run(
    config: DetectionConfig, folder: Path, folders: Folders, operation: Operation
) -> State:
    """Trains a run in ``folder``, or resumes it; see :func:`experiments.engine.loop.train`.

    Args:
        config: config of the run.
        folder: folder of the run.
        folders: folders of the data and of all runs.
        operation: settings of logging, checkpoints and evaluation of the run.

    Raises:
        CheckpointError: the classification run that initialises the backbone cannot be read.
        ConfigError: the run of the backbone has a different network; or the norms are frozen, and
            no preset trains this backbone.
    """
    training = config.training
    check_batch_size(training.batch_size, training.accumulation)
    backbone = config.model.backbone
    source = None
    if config.pretrained and not has_checkpoints(folder):
        source = backbone_folder(backbone, config.backbone_from, folders.runs)
    data = primary_first(lambda: open_data(config.data, folders))
    index = data.index("train")
    images = int(index.usable.sum())
    if is_primary():
        print(f"{images} images with objects to train on, {len(data.validation)} to evaluate")
    steps_per_epoch = max(1, images // training.batch_size)
    evaluate = make_evaluator(config, data, evaluation_in_training(training, operation))
    state = initial_state(config)
    if source is not None:
        if is_primary():
            print(f"the backbone is initialised from {printable(source)}")
        variables = {"params": state["params"], **state["model_state"]}
        state = training_state(config, with_backbone(variables, source, backbone))
    task = Task(
        state=state,
        step=train_step(config, steps_per_epoch),
        dataset=training_batches(
            data.train, index, config.data, training.batch_size, training.seed
        ),
        steps=training.schedule.steps(training.schedule.length, steps_per_epoch),
        evaluate=evaluate,
        best=RUNS.best,
        files={CATEGORIES: [category._asdict() for category in data.categories]},
    )
    return train(folder, config, training, task, operation)


def read_categories(folder: Path, count: int) -> tuple[Category, ...]:
    """The categories of a run, indexed by label.

    Args:
        folder: folder of the run.
        count: number of the run's classes.

    Raises:
        CheckpointError: the categories cannot be read, or their number is not ``count``.
    """
    path = folder / CATEGORIES
    try:
        categories = parse_categories(path, read_json(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must hold the run's categories: {error}") from error
    if len(categories) != count:
        raise CheckpointError(f"{path} must hold {count} categories, got {len(categories)}")
    return categories
