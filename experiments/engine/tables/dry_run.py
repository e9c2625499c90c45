"""Prints the cost of the rows of a table without training them."""

import dataclasses

import jax

from experiments.engine.distributed import is_primary
from experiments.engine.parallel import check_batch_size, share_of_process
from experiments.engine.presets import scores_text
from experiments.engine.settings import Dtype, RunConfig
from experiments.engine.tables.cost import Cost
from experiments.engine.tables.spec import TaskSpec
from experiments.engine.tables.table import Table, print_tables


def dry_run[Config: RunConfig](
    spec: TaskSpec[Config],
    name: str,
    *,
    time_steps: bool = False,
    batch_size: int = 1,
    shorter_side: int | None = None,
    dtype: Dtype | None = None,
) -> None:
    """Prints parameters and operations of every row of a table, from shapes only.

    The operations are those of the model for one image. With ``time_steps``, a training step and an
    inference of every row are also compiled and timed, on random images: the median of five calls
    after the first, for one batch over all devices. These times compare the rows of one table on
    one machine; the speed of inference is also given relative to the first row.

    Args:
        spec: spec of the task.
        name: name of the experiment in the task's catalogue.
        time_steps: whether to compile and time steps, which takes minutes for each row.
        batch_size: number of images in a timed step, over all processes and devices.
        shorter_side: shorter side of the images, in pixels; the default is the preset's.
        dtype: dtype of the computation; the default is the preset's.

    Raises:
        ConfigError: the devices cannot share the batch, or the task cannot use images of this size.
    """
    experiment = spec.catalogue.experiments[name]
    if time_steps:
        check_batch_size(batch_size)
    headings = ["", "parameters", "GFLOP"]
    if time_steps:
        headings += ["training, ms", "images/s", "inference, ms", "images/s", "share"]
    metrics = [metric for metric in spec.catalogue.metrics if metric.place == "headline"]
    lines, costs, seconds = [], dict[Config, Cost](), dict[Config, tuple[float, float]]()
    first: float | None = None
    for preset in experiment.presets:
        config = preset.config
        if dtype is not None:
            config = dataclasses.replace(config, dtype=dtype)
        if shorter_side is not None:
            config = spec.resized(config, shorter_side)
        if config not in costs:  # equal configs are measured once
            costs[config] = spec.cost(config)
        found = costs[config]
        entries = [f"{found.parameters:,}", f"{found.flops / 1e9:.4g}"]
        if time_steps:
            if config not in seconds:
                training, inference = spec.step_seconds(config, share_of_process(batch_size))
                seconds[config] = training, inference
                if is_primary():  # so that these times are not lost if a later row fails
                    print(
                        f"{preset.name}: training {1e3 * training:.1f} ms, "
                        f"inference {1e3 * inference:.1f} ms",
                        flush=True,
                    )
            training, inference = seconds[config]
            first = inference if first is None else first
            entries += [
                f"{1e3 * training:.0f}",
                f"{batch_size / training:.3g}",
                f"{1e3 * inference:.0f}",
                f"{batch_size / inference:.3g}",
                f"{first / inference:.2f}",
            ]
        paper = scores_text(metrics, preset.paper, preset.paper_note)
        lines.append((preset.row, *entries, paper))
    title = experiment.title
    groups = tuple(preset.group for preset in experiment.presets)
    if time_steps:
        title += f": {batch_size} images a step on {jax.devices()[0].device_kind}"
    if is_primary():
        print_tables([Table(title, (*headings, "paper"), tuple(lines), groups=groups)])
