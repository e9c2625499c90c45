"""Makes runs from files of other libraries, and files for other libraries from runs."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.coco_names import CATEGORIES as COCO
from experiments.detection.configs import DetectionConfig
from experiments.detection.conventions import MSRA, Style, with_convention
from experiments.detection.conversion.constants import check_constants
from experiments.detection.conversion.layouts import layout
from experiments.detection.conversion.libraries import Library, Names
from experiments.detection.conversion.recognition import Recognised, recognise
from experiments.detection.model.config import DetectorConfig
from experiments.detection.presets import MASK_SIDE, PRESETS
from experiments.detection.task import CATEGORIES, RUNS, initial_variables, training_state
from experiments.engine import config as configs
from experiments.engine.converted_runs import (
    check_output,
    origin,
    read_rest,
    with_drawn,
    write_converted_run,
)
from experiments.engine.settings import CheckpointChoice
from experiments.weights.loading import file_shapes, load, unused_texts
from experiments.weights.saving import check_new, save

# The format in converted.json of a file with torchvision's names from before version 0.13.
_OLD = "torchvision-old"
# Presets that converted runs resemble most, by depth and masks: their schedule has the length of
# the published trainings.
_PRESETS = {
    (50, False): "table5-baseline",
    (50, True): "table7-baseline",
    (101, False): "table1-faster-rcnn-resnet101",
    (101, True): "table1-mask-rcnn-resnet101",
}


class Converted(NamedTuple):
    """What a conversion did.

    Attributes:
        library: library of the file.
        names: version of the library's names.
        network: the network in words.
        used: number of arrays that the network uses.
        unused: the arrays of the file that it does not use, with the reasons.
        not_in_file: properties of the network that no array of the file determines.
        settings: settings of the run with which the library's own detectors compute something else,
            as ``name: theirs -> ours``.
    """

    library: Library
    names: Names
    network: str
    used: int
    unused: tuple[str, ...]
    not_in_file: tuple[str, ...]
    settings: tuple[str, ...] = ()


def to_run(
    weights: Path,
    output: Path,
    library: Library | None = None,
    norm_epsilon: float | None = None,
    keep: tuple[str, ...] = (),
    style: Style | None = None,
) -> Converted:
    """Writes a run whose checkpoint of step 0 holds the weights of a file.

    The run can be evaluated, used for predictions, and trained further. Its classes are COCO's 80.
    For the same pixels and the same padding it computes what the library's detector computes; see
    :func:`experiments.detection.conventions.with_convention`.

    Args:
        weights: file of the weights.
        output: folder of the run; it must be new or empty.
        library: library that wrote the file; by default it is recognised.
        norm_epsilon: number that normalisation adds to variances. The default is 1e-5, and 0 for
            files of torchvision without counters of BatchNorm, as torchvision sets it for its
            weights ``COCO_V1``.
        keep: parts of the network that the file lacks; they keep their initial values.
        style: style of the backbone in a file of mmdet, which its arrays do not determine. The
            default is ``"pytorch"``.

    Returns:
        What was done.

    Raises:
        ConfigError: ``output`` is not empty, or cannot be created; or ``style`` is given for a file
            of another library.
        WeightsError: the file cannot be read, is of another network or another number of classes,
            has unusable values, or constants that differ from the config of the run; or ``keep``
            names a part that the network does not have.
    """
    check_output(output)
    found = recognise(file_shapes(weights), library)
    mmdet = found.library == "mmdet"
    configs.check(style is None or mmdet, "style", f"left out for a file of {found.library}", style)
    config = run_config(found, norm_epsilon, style or "pytorch")
    shapes = jax.eval_shape(lambda: initial_variables(config))
    loaded = load(weights, shapes, layout(found.library, config.model, found.names), keep)
    if found.library == "detectron2":
        check_constants(loaded.rest, config.model)
    variables = with_drawn(loaded.variables, lambda: initial_variables(config))
    write_converted_run(
        output,
        config,
        training_state(config, variables),
        [weights],
        _OLD if (found.library, found.names) == ("torchvision", "old") else found.library,
        {CATEGORIES: [category._asdict() for category in COCO]},
        loaded.rest,
        keep,
    )
    used = len(jax.tree.leaves(shapes))
    used -= sum(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(loaded.variables)
    )
    return Converted(
        library=found.library,
        names=found.names,
        network=found.describe(),
        used=used,
        unused=tuple(unused_texts(loaded.unused)),
        not_in_file=_not_in_file(config),
    )


def _not_in_file(config: DetectionConfig) -> tuple[str, ...]:
    backbone = config.model.backbone
    images = backbone.input
    texts = [f"input {images.channels.upper()}, mean {images.mean}, std {images.std}, in bytes"]
    if backbone.depth >= 50:
        convolution = "first 1x1" if backbone.stride_in_1x1 else "3x3"
        texts.append(f"stride in the {convolution} convolution of a bottleneck")
    return (*texts, f"norm epsilon {backbone.norm_epsilon:g}")


def run_config(
    found: Recognised, norm_epsilon: float | None = None, style: Style = "pytorch"
) -> DetectionConfig:
    """The config of a run with a detector of another library.

    Args:
        found: the detector.
        norm_epsilon: number that normalisation adds to variances; for the default see
            :func:`to_run`.
        style: style of the backbone in a file of mmdet.
    """
    model = found.config
    depth = model.backbone.depth if model.backbone.depth > 50 else 50
    name = _PRESETS[min(depth, 101), model.masks]
    (base,) = (preset.config for preset in PRESETS if preset.name == name)
    side = MASK_SIDE if model.masks else None
    data = dataclasses.replace(base.data, mask_side=side)
    config = dataclasses.replace(base, model=model, data=data)
    config = with_convention(config, found.library, style)
    if norm_epsilon is None and found.has_counters:
        norm_epsilon = 1e-5  # of PyTorch's BatchNorm
    if norm_epsilon is None:
        return config
    return _with_model(
        config,
        backbone=dataclasses.replace(config.model.backbone, norm_epsilon=norm_epsilon),
    )


def to_file(
    run: Path,
    output: Path,
    library: Library,
    names: Names | None = None,
    checkpoint: CheckpointChoice = "newest",
) -> Converted:
    """Writes the weights of a run to a file of another library.

    If the run was converted from a file of this library, arrays that it does not use are those of
    the file. Without training all arrays then are equal to the file's bit for bit, with either
    version of torchvision's names. Files of mmdet have the new names of offsets.

    Args:
        run: folder of the run.
        output: path of the new file.
        library: library of the file.
        names: version of the library's names. The default is ``"new"``, and for torchvision the
            version of the file from which the run was converted.
        checkpoint: choice of the checkpoint.

    Returns:
        What was done.

    Raises:
        CheckpointError: there is no run of this task in ``run``, or it cannot be read.
        ConfigError: the library has no such network, or ``output`` exists.
    """
    check_new([output])
    loaded = RUNS.load(run, checkpoint)
    config = loaded.config
    _check_in_library(config, library)
    names = names or ("old" if library == "torchvision" and origin(run) == _OLD else "new")
    formats = ("torchvision", _OLD) if library == "torchvision" else (library,)
    rest = read_rest(run, *formats)
    variables = {"params": loaded.state["params"], **loaded.state["model_state"]}
    if library != "detectron2":
        rest = _renamed(rest, library, names, config.model, variables)
    save([output], variables, layout(library, config.model, names), rest)
    settings = configs.differences(_usual(config, library), config)
    network = Recognised(library, names, config.model, has_counters=False).describe()
    used = len(jax.tree.leaves(variables))
    return Converted(
        library=library,
        names=names,
        network=network,
        used=used,
        unused=(),
        not_in_file=_not_in_file(config),
        settings=tuple(settings),
    )


def _renamed(
    rest: Mapping[str, np.ndarray],
    library: Library,
    names: Names,
    model: DetectorConfig,
    variables: Any,
) -> dict[str, np.ndarray]:
    """Arrays of a file of a library, with either version of its names, under new names."""
    other: Names = "new" if names == "old" else "old"
    before, after = (
        layout(library, model, version).sources(variables) for version in (other, names)
    )
    renamed = {source.name: after[path].name for path, source in before.items()}
    return {renamed.get(name, name): array for name, array in rest.items()}


def _check_in_library(config: DetectionConfig, library: Library) -> None:
    """Raises ``ConfigError`` for a network whose weights have no names in a library."""
    model, theirs = config.model, f"for a file of {library}"
    carafe = library == "mmdet"
    # The upsampler of mmdet's plain FPN is nearest, too.
    learned = carafe and model.neck.kind == "fpn_carafe"
    choices: list[tuple[str, Any, list[Any]]] = [
        ("data.source", config.data.source, ["coco", "coco_boxes"]),
        ("model.backbone.downsampler", model.backbone.downsampler, ["strided"]),
        ("model.backbone.stem", model.backbone.stem, ["conv7"]),
        (
            "model.backbone.deformable_stages",
            model.backbone.deformable_stages,
            # torchvision's ResNets have no deformable convolutions.
            [(False,) * 4 if library == "torchvision" else model.backbone.deformable_stages],
        ),
        ("model.neck.kind", model.neck.kind, ["fpn", *["fpn_carafe"] * carafe]),
        ("model.neck.upsampler", model.neck.upsampler, ["nearest", *["carafe"] * learned]),
        ("model.neck.extra_level", model.neck.extra_level, [True]),
    ]
    if model.masks:
        upsamplers = ["deconvolution", *["carafe"] * carafe]
        choices.append(("model.mask.upsampler", model.mask.upsampler, upsamplers))
    for name, part in (("neck", model.neck), ("mask", model.mask)):
        if part.upsampler == "carafe":
            normalizer = part.carafe.normalizer
            choices.append((f"model.{name}.carafe.normalizer", normalizer, ["softmax"]))
    for name, value, allowed in choices:
        expected = " or ".join(map(repr, allowed))
        configs.check(value in allowed, name, f"{expected} {theirs}", value)


def _usual(config: DetectionConfig, library: Library) -> DetectionConfig:
    """A config with the settings of a library's own detectors."""
    caffe = library == "mmdet" and config.model.backbone.input == MSRA
    config = _with_model(config, anchors=DetectorConfig().anchors)
    return with_convention(config, library, "caffe" if caffe else "pytorch")


def _with_model(config: DetectionConfig, **fields: Any) -> DetectionConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


def training_command(run: Path) -> str:
    """The command that trains a converted run further, quoted for a shell.

    Args:
        run: folder of the run.
    """
    config = RUNS.load_config(run)
    changes = {preset.name: _options(preset.config, config) for preset in PRESETS}
    name = min(changes, key=lambda name: len(changes[name]))
    options = [word for option in changes[name] for word in option]
    program = ["python", "-m", f"experiments.{config.task}"]
    return shlex.join([*program, "train", name, *options, "--output", str(run)])


def _options(old: Any, new: Any, prefix: str = "--") -> list[list[str]]:
    """The options of `train` that make one config of another, each with its values."""
    found = []
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        option = field.name.replace("_", "-")
        name = prefix + option
        if dataclasses.is_dataclass(before):
            found += _options(before, after, f"{name}.")
        elif isinstance(after, bool):
            found += [[name if after else f"{prefix}no-{option}"]] * (before != after)
        elif before != after:
            values = after if isinstance(after, tuple) else (after,)
            found.append([name, *map(str, values)])
    return found
