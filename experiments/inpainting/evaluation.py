"""Evaluation of a generator: mean metrics over all images, and for each range of hole sizes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.engine.batch_fields import UNREADABLE
from experiments.engine.evaluation import COUNT, Evaluator, weighted_sum
from experiments.engine.settings import EvaluationConfig
from experiments.inpainting.configs import HoleConfig, InpaintingConfig
from experiments.inpainting.data.batches import InpaintingData, buckets, evaluation_batches
from experiments.inpainting.fill import fill, make_generator
from experiments.inpainting.metrics import METRICS, image_metrics
from experiments.inpainting.model.generators import Generator
from experiments.inpainting.pixels import to_unit

IMAGES = "images"

Metrics = dict[str, float]


def bucket_names(holes: HoleConfig) -> tuple[str, ...]:
    """Names of the ranges of hole sizes in percent of the image, such as ``"10-20"``."""
    return tuple(f"{low}-{high}" for low, high in buckets(holes))


def measured_images(
    model: Generator, variables: Any, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Computes each of :data:`experiments.inpainting.metrics.METRICS` for the images of a batch.

    Args:
        model: generator.
        variables: variables from :func:`experiments.inpainting.fill.variables_of`.
        batch: share of a batch from
            :func:`experiments.inpainting.data.batches.evaluation_batches`.
    """
    image, mask = to_unit(batch["image"]), batch["mask"].astype(jnp.float32)
    return image_metrics(fill(model, variables, image, mask), image, mask)


def make_evaluator(
    config: InpaintingConfig, data: InpaintingData, evaluation: EvaluationConfig
) -> Callable[[Any], Metrics]:
    """Makes a function that evaluates a generator on all validation images, each once.

    Args:
        config: config of the run.
        data: the run's dataset from :func:`experiments.inpainting.data.batches.open_data`.
        evaluation: batch size, workers, and the largest number of unreadable images.

    Returns:
        A function of variables from :func:`experiments.inpainting.fill.variables_of`, compiled
        once. It returns the mean of each of :data:`experiments.inpainting.metrics.METRICS` over all
        images; for each bucket with images also the mean over the bucket, such as
        ``psnr_hole/10-20``, and the number of images, such as ``images/10-20``; and ``unreadable``,
        the number of images left out, if any. Fills are not rounded to bytes.

        It raises the errors of :class:`experiments.engine.evaluation.Evaluator`.
    """
    batches = evaluation_batches(data, config.data, evaluation.batch_size)
    sums = evaluation_sums(config)
    evaluator = Evaluator(sums, batches, evaluation.workers, evaluation.max_unreadable_records)
    names = bucket_names(config.data.holes)

    def evaluate(variables: Any) -> Metrics:
        means = evaluator(variables)
        left_out = round(means.get(UNREADABLE, 0))
        return _by_bucket(means, names, len(data.validation) - left_out)

    return evaluate


def evaluation_sums(
    config: InpaintingConfig,
) -> Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]:
    """The function of the sums of an :class:`experiments.engine.evaluation.Evaluator`.

    Args:
        config: config of the run.

    Returns:
        A function of the variables of a generator and of a batch. Its sums have the names of
        :data:`experiments.inpainting.metrics.METRICS`; the sums over the images of each bucket have
        names such as ``psnr_hole/10-20``.
    """
    model = make_generator(config)
    names = bucket_names(config.data.holes)

    def sums(variables: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        found = measured_images(model, variables, batch)
        weight = batch["weight"]
        found |= {IMAGES: jnp.ones_like(weight)}
        # Examples with weight 0 have bucket -1, whose one-hot encoding is all zeros.
        members = jax.nn.one_hot(batch["bucket"], len(names))  # [B, buckets]
        totals = {COUNT: weight.sum()}
        for metric, values in found.items():
            totals[metric] = weighted_sum(values, weight)
            for number, name in enumerate(names):
                totals[_key(metric, name)] = weighted_sum(values, members[:, number])
        return totals

    return sums


def _key(metric: str, bucket: str) -> str:
    return f"{metric}/{bucket}"


def _by_bucket(means: Mapping[str, float], names: tuple[str, ...], images: int) -> Metrics:
    """Converts sums over buckets, which the evaluator divided by all images, to means."""
    result = {metric: means[metric] for metric in METRICS}
    for name in names:
        share = means[_key(IMAGES, name)]
        if share:
            result |= {_key(metric, name): means[_key(metric, name)] / share for metric in METRICS}
            result[_key(IMAGES, name)] = round(share * images)
    if UNREADABLE in means:
        result[UNREADABLE] = means[UNREADABLE]
    return result
