"""Studies of the kernels of trained classification networks with CARAFE++."""

import jax

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.classification.batches import evaluation_batches, open_data
from experiments.classification.configs import ClassificationConfig
from experiments.classification.task import evaluation_sums, make_model
from experiments.engine.evaluation import Evaluator
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.engine.step import State, network_state
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
        network_of=network_state,
        reassemblies=reassemblies,
        batches=evaluation_batches(data, config.data, evaluation.batch_size),
        inputs=("image",),
        evaluator=lambda adapt, batches: Evaluator(
            adapt(sums), batches, evaluation.workers, evaluation.max_unreadable_records
        ),
        images=len(data.validation),
    )
