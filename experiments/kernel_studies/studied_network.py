"""What the studies of kernels need: trained networks that differ in their seeds, and images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from carafe_jax.sources import Reassembly
from experiments.engine.config import ConfigError, check, differences
from experiments.engine.evaluation import (
    NonFiniteEvaluationError,
    check_not_empty,
    check_unreadable,
)
from experiments.engine.input import Input, unreadable_records
from experiments.engine.parallel import AXIS, data_parallel, replicate
from experiments.engine.runs import LoadedRun, RunType, names_of
from experiments.engine.settings import CheckpointChoice, EvaluationConfig, RunConfig
from experiments.engine.tables.results import SEVERAL_SEEDS
from experiments.engine.text import encodable, printable
from experiments.kernel_studies.batches import WEIGHT

Batch = dict[str, Any]
# A function of the state of a network and of one device's share of a batch, or of its images.
Step = Callable[[Any, Any], Any]

ONE_RUN = "A single run: how much the values differ with the seed is not known."


@dataclasses.dataclass(frozen=True)
class StudiedNetwork:
    """A network and the images on which it is studied.

    Attributes:
        network_of: function from the state of a run to the state of its network.
        reassemblies: function that applies the network to one device's share of a batch, and
            returns its reassemblies, as :func:`carafe_jax.linen.collect_reassemblies` does. It has
            the arguments ``(state of the network, share of the batch)``.
        batches: finite batches of the images, with ``weight``.
        inputs: names of the fields of a batch that the network reads.
        evaluator: function that makes an evaluation, a function from a state to metrics. Its
            arguments are a function that adapts the compiled function of state and share (or
            images), and the batches in place of ``batches``.
        images: number of the images.
        split: split of the dataset to which the images belong.
    """

    network_of: Callable[[Any], Any]
    reassemblies: Callable[[Any, Batch], tuple[Reassembly, ...]]
    batches: grain.MapDataset
    inputs: tuple[str, ...]
    evaluator: Callable[[Callable[[Step], Step], grain.MapDataset], Callable[[Any], Any]]
    images: int
    split: str = "validation"


def load_runs[Config: RunConfig](
    run_type: RunType[Config], runs: Sequence[Path], checkpoint: CheckpointChoice
) -> dict[str, LoadedRun[Config]]:
    """Loads runs whose configs differ in the seed only, by different names.

    Args:
        run_type: properties of the runs of the task.
        runs: folders of one or more runs.
        checkpoint: choice of the checkpoint of each run.

    Raises:
        CheckpointError: there is no run of this task in a folder, or it cannot be read.
        ConfigError: there are no runs, a run is given twice, or configs differ in more than the
            seed, or not in the seed.
    """
    check(bool(runs), "runs", "one or more folders", [])
    names = names_of(runs)
    configs = dict(zip(names, map(run_type.load_config, runs), strict=True))
    check_seeds(configs)
    return {name: run_type.load(run, checkpoint) for name, run in zip(names, runs, strict=True)}


def check_seeds(configs: Mapping[str, RunConfig]) -> None:
    """Checks that configs differ in their seeds, and in nothing else.

    Args:
        configs: config of each run, by the run's name; at least one.

    Raises:
        ConfigError: two configs differ in another field, or have the same seed.
    """
    first, *others = configs
    seeds = [config.training.seed for config in configs.values()]
    for name in others:
        changed = differences(
            configs[first].with_training(seed=0), configs[name].with_training(seed=0)
        )
        if changed:
            raise ConfigError(
                "runs must have configs that differ only in training.seed, got "
                f"{first} and {name} with {'; '.join(changed)}"
            )
    check(len(set(seeds)) == len(seeds), "runs", "of different seeds", seeds)


def layer_names(studied: StudiedNetwork, state: Any, runs: Sequence[Path]) -> tuple[str, ...]:
    """Returns the names of the CARAFE++ layers in the order in which the network calls them.

    Args:
        studied: the network and its images.
        state: state of a run.
        runs: folders of the runs, for the message.

    Raises:
        ConfigError: the network has no CARAFE++, or there are no images.
    """
    check_not_empty(studied.batches)
    network = jax.eval_shape(studied.network_of, state)
    found = jax.eval_shape(studied.reassemblies, network, studied.batches[0])
    if not found:
        raise ConfigError(
            "runs must have networks with CARAFE++, got a network without any in "
            f"{', '.join(map(printable, runs))}"
        )
    return tuple(dict.fromkeys(step.name for step in found))


class Totals(NamedTuple):
    """Sums over the images.

    Attributes:
        sums: sums over the images, in float64.
        images: number of images.
        unreadable: number of images that cannot be read, and do not count.
    """

    sums: Any
    images: int
    unreadable: int


def summed(
    studied: StudiedNetwork,
    sums: Callable[[Sequence[Reassembly], jax.Array], Any],
    batches: grain.MapDataset,
    states: Sequence[Any],
    evaluation: EvaluationConfig,
) -> list[Totals]:
    """Computes sums of the reassemblies of networks over all images; compiled once.

    Args:
        studied: the network and its images.
        sums: function from the reassemblies of a share of a batch, and the weight of each image, to
            sums over the images of the share.
        batches: batches of the images, with ``weight``.
        states: states of the network.
        evaluation: number of workers, and largest number of unreadable images.

    Returns:
        The sums for each state.

    Raises:
        UnreadableEvaluationError: too many images cannot be read, or no image can.
        ConfigError: there is no image.
        NonFiniteEvaluationError: a sum is NaN or infinite.
    """

    def total(state: Any, batch: Batch) -> Any:
        weight = batch[WEIGHT]
        found = sums(studied.reassemblies(state, batch), weight)
        return jax.lax.psum((found, weight.sum()), AXIS)

    step = data_parallel(total)
    return [_summed(step, batches, replicate(state), evaluation) for state in states]


def _summed(
    step: Step, batches: grain.MapDataset, state: Any, evaluation: EvaluationConfig
) -> Totals:
    totals: Any = None
    unreadable: list[int] = []
    with closing(Input(batches, evaluation.workers)) as data:
        for batch, host in data:
            unreadable += unreadable_records(host)
            found = jax.tree.map(np.float64, jax.device_get(step(state, batch)))
            totals = found if totals is None else jax.tree.map(np.add, totals, found)
    sums, images = totals
    left_out = check_unreadable(unreadable, bool(images > 0), evaluation.max_unreadable_records)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sums)):
        raise NonFiniteEvaluationError(
            "the reassembly kernels must be finite, got NaN or infinity: the parameters are "
            "broken, or the network overflows"
        )
    return Totals(sums, round(float(images)), left_out)


def about[Config: RunConfig](
    folders: Sequence[Path], loaded: Mapping[str, LoadedRun[Config]]
) -> dict[str, Any]:
    """Returns folder, seed and step of each run for a JSON file.

    Args:
        folders: folders of the runs.
        loaded: the runs in the same order, by name.
    """
    return {
        name: {
            "folder": encodable(folder),
            "seed": run.config.training.seed,
            "step": run.step,
        }
        for folder, (name, run) in zip(folders, loaded.items(), strict=True)
    }


def title_of[Config: RunConfig](
    text: str, studied: StudiedNetwork, images: int, loaded: Mapping[str, LoadedRun[Config]]
) -> str:
    """Returns the title of a table: what it shows, images, seeds and steps.

    Args:
        text: what the table shows.
        studied: the network and its images.
        images: number of the images that count.
        loaded: the runs, by name.
    """
    seeds = ", ".join(str(run.config.training.seed) for run in loaded.values())
    steps = ", ".join(dict.fromkeys(str(run.step) for run in loaded.values()))
    plural = "seeds" if len(loaded) > 1 else "seed"
    return f"{text}, {images} images of {studied.split}, {plural} {seeds}, step {steps}"


def notes_of(studied: StudiedNetwork, runs: int, totals: Totals) -> list[str]:
    """Returns notes on the runs and on the images that do not count.

    Args:
        studied: the network and its images.
        runs: number of runs.
        totals: sums over the images.
    """
    notes = [SEVERAL_SEEDS if runs > 1 else ONE_RUN]
    if totals.unreadable:
        notes.append(f"{totals.unreadable} images or labels could not be read, and do not count.")
    alone = studied.images - totals.images - totals.unreadable
    if alone:
        notes.append(f"Images left out because no other image has their size: {alone}.")
    return notes
