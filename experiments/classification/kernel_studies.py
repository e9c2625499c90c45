"""Studies of the kernels of trained classification networks with CARAFE++."""

from collections.abc import Sequence
from pathlib import Path

import jax

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.classification.batches import evaluation_batches, open_data
from experiments.classification.configs import ClassificationConfig
from experiments.classification.presets import METRICS
from experiments.classification.task import RUNS, evaluation_sums, make_model
from experiments.engine.evaluation import Evaluator
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.engine.step import State
from experiments.kernel_studies import border_study, replacement_study
from experiments.kernel_studies.studied_network import StudiedNetwork
from experiments.models.input_normalization import normalize


def studied_network(
    config: ClassificationConfig, folders: DataFolders, evaluation: EvaluationConfig
) -> StudiedNetwork:
    """Returns the network of a config and its validation images.

    Args:
        config: config of the run.
        folders: folders of data.
        evaluation: settings of the evaluation.

    Raises:
        DataError: the dataset is missing or invalid.
    """
    data = open_data(config.data, folders)
    model = make_model(config)
    sums = evaluation_sums(model)

    def reassemblies(state: State, batch: dict[str, jax.Array]) -> tuple[Reassembly, ...]:
        variables = {"params": state["params"], "batch_stats": state["model_state"]}
        x = normalize(batch["image"], model.config.input)
        return collect_reassemblies(model, variables, x)[1]

    return StudiedNetwork(
        network_of=lambda state: {name: state[name] for name in ("params", "model_state")},
        reassemblies=reassemblies,
        batches=evaluation_batches(data, config.data, evaluation.batch_size),
        inputs=("image",),
        evaluator=lambda adapt, batches: Evaluator(
            adapt(sums), batches, evaluation.workers, evaluation.max_unreadable_records
        ),
        images=len(data.validation),
    )


def replace_kernels(
    runs: Sequence[Path], output: Path, folders: DataFolders, evaluation: EvaluationConfig
) -> None:
    """See :func:`experiments.kernel_studies.replacement_study.replace_kernels`."""
    replacement_study.replace_kernels(
        RUNS,
        runs,
        lambda config: studied_network(config, folders, evaluation),
        METRICS,
        output,
        evaluation,
    )


def kernel_sums(
    runs: Sequence[Path], output: Path, folders: DataFolders, evaluation: EvaluationConfig
) -> None:
    """See :func:`experiments.kernel_studies.border_study.measure_borders`."""
    border_study.measure_borders(
        RUNS, runs, lambda config: studied_network(config, folders, evaluation), output, evaluation
    )
