"""Studies of the kernels of trained pyramids with CARAFE++."""

from typing import Any

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.engine.step import State, network_state
from experiments.kernel_studies.studied_network import StudiedNetwork
from experiments.pyramid.batches import evaluation_batches
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.evaluation import PyramidEvaluator
from experiments.pyramid.features import open_features
from experiments.pyramid.task import make_model, predict


def studied_network(
    config: PyramidConfig, folders: DataFolders, evaluation: EvaluationConfig
) -> StudiedNetwork:
    """Returns the network of a config and the validation scenes; a batch has scenes of one size.

    Args:
        config: config of the run.
        folders: folders of data.
        evaluation: settings of the evaluation.

    Raises:
        DataError: the files from which scenes are composed are missing or damaged.
        WeightsError: the weights of the backbone are missing or damaged.
    """
    features = open_features(config.scenes, folders)
    model = make_model(config)

    def reassemblies(state: State, batch: dict[str, Any]) -> tuple[Reassembly, ...]:
        variables = {"params": state["params"], "batch_stats": state["model_state"]}
        return collect_reassemblies(model, variables, batch["maps"])[1]

    return StudiedNetwork(
        network_of=network_state,
        reassemblies=reassemblies,
        batches=evaluation_batches(features, evaluation.batch_size, "validation"),
        inputs=("maps",),
        evaluator=lambda adapt, batches: PyramidEvaluator(
            adapt(lambda state, maps: predict(model, state, maps)),
            batches,
            features.count("validation"),
            features.class_names,
            evaluation.workers,
        ),
        images=features.count("validation"),
    )
