"""Studies of the kernels of trained segmentation networks with CARAFE++."""

from typing import Any

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.engine.step import State, network_state
from experiments.kernel_studies.studied_network import StudiedNetwork
from experiments.models.input_normalization import normalize
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.batches import evaluation_batches
from experiments.segmentation.data.config import Split
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.evaluation.evaluator import SegmentationEvaluator
from experiments.segmentation.task import make_model, segment


def studied_network(
    config: SegmentationConfig,
    folders: DataFolders,
    evaluation: EvaluationConfig,
    split: Split = "validation",
) -> StudiedNetwork:
    """The network of a config and the images of a split; each batch has images of one size.

    Args:
        config: config of the run.
        folders: folders of the data.
        evaluation: settings of the evaluation.
        split: split of the images.

    Raises:
        DataError: the dataset is missing or damaged.
    """
    data = open_data(config.data, folders)
    model = make_model(config)

    def reassemblies(state: State, batch: dict[str, Any]) -> tuple[Reassembly, ...]:
        (image,) = batch["images"]  # at one scale
        variables = {"params": state["params"], "batch_stats": state["model_state"]}
        x = normalize(image, model.config.backbone.input)
        return collect_reassemblies(model, variables, x)[1]

    return StudiedNetwork(
        network_of=network_state,
        reassemblies=reassemblies,
        batches=evaluation_batches(data, config.data, evaluation.batch_size, split=split),
        inputs=("images",),
        evaluator=lambda adapt, batches: SegmentationEvaluator(
            adapt(lambda state, image: segment(model, state, image)),
            batches,
            data.source(split),
            data.class_names,
            workers=evaluation.workers,
            max_unreadable_records=evaluation.max_unreadable_records,
        ),
        images=len(data.source(split)),
        split=split,
    )
