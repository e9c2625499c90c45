"""Studies of the kernels of trained generators with CARAFE++."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.engine.evaluation import Evaluator
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import evaluation_batches, open_data
from experiments.inpainting.evaluation import evaluation_sums
from experiments.inpainting.fill import make_generator, variables_of
from experiments.inpainting.pixels import to_unit
from experiments.kernel_studies.studied_network import StudiedNetwork


def studied_network(
    config: InpaintingConfig,
    folders: DataFolders,
    evaluation: EvaluationConfig,
    images: Path | None = None,
) -> StudiedNetwork:
    """The generator of a config and its validation images with their holes.

    With partial convolutions, the kernels are those before they are divided by their sum over valid
    pixels.

    Args:
        config: config of the run.
        folders: folders of the data.
        evaluation: settings of the evaluation.
        images: folder of images that replaces the run's dataset.

    Raises:
        DataError: the dataset is missing or damaged.
    """
    if images is not None:
        config = dataclasses.replace(config, data=config.data.with_images(images))
    data = open_data(config.data, folders)
    model = make_generator(config)
    sums = evaluation_sums(config)

    def reassemblies(variables: Any, batch: dict[str, jax.Array]) -> tuple[Reassembly, ...]:
        image, mask = to_unit(batch["image"]), batch["mask"].astype(jnp.float32)
        return collect_reassemblies(model, variables, image, mask)[1]

    return StudiedNetwork(
        network_of=variables_of,
        reassemblies=reassemblies,
        batches=evaluation_batches(data, config.data, evaluation.batch_size),
        inputs=("image", "mask"),
        evaluator=lambda adapt, batches: Evaluator(
            adapt(sums), batches, evaluation.workers, evaluation.max_unreadable_records
        ),
        images=len(data.validation),
    )
