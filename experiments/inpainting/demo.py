"""Trains two U-Nets that differ in their resamplers alone, and shows what each fills in."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.data.crops import prepare
from experiments.engine.files import write_json
from experiments.engine.metrics import read_metrics
from experiments.engine.settings import Operation, TrainingConfig
from experiments.inpainting import figures
from experiments.inpainting.batches import Batch, validation_examples
from experiments.inpainting.configs import DataConfig, InpaintingConfig
from experiments.inpainting.task import (
    count_parameters,
    evaluate,
    fill,
    make_model,
    train_run,
)
from experiments.models.unet import UNetConfig

_EXAMPLES_SHOWN = 5
_CAVEAT = (
    "One short run with one seed ranks nothing, and CARAFE++ has more parameters here: "
    "this shows that everything works, not which is better."
)


def demo_configs(
    training: TrainingConfig, data: DataConfig, widths: tuple[int, ...]
) -> dict[str, InpaintingConfig]:
    """Baseline and CARAFE++; everything but the resamplers is the same."""
    models = {
        "baseline": UNetConfig("strided", "nearest", widths),
        "carafe": UNetConfig("carafe", "carafe", widths),
    }
    return {name: InpaintingConfig(model, data, training) for name, model in models.items()}


def run_demo(
    output: Path,
    data_dir: Path,
    photographs: Path,
    run_configs: dict[str, InpaintingConfig],
    operation: Operation,
) -> None:
    """Trains, evaluates and draws; what an interrupted call has done is not done again.

    Leaves in ``output``: a folder a run with config, metrics and checkpoints, ``results.json``,
    ``filled.png``, ``kernels.png`` and ``losses.png``.

    Args:
        output: folder of the results.
        data_dir: folder of the data sets.
        photographs: folder that `python -m experiments.data.debian` filled; used for its source.
        run_configs: what :func:`demo_configs` gives.
        operation: of each run.
    """
    console = Console()
    base = run_configs["baseline"]
    steps = round(base.training.schedule.length)
    data_folder = prepare(base.data.source, data_dir, photographs)
    examples = validation_examples(data_folder, base.data)
    shown = _spread(examples, _EXAMPLES_SHOWN)
    results: dict[str, dict[str, float]] = {}
    filled: dict[str, list[np.ndarray]] = {}
    logs = {}
    for name, config in run_configs.items():
        resamplers = f"{config.model.downsampler} down, {config.model.upsampler} up"
        console.print(f"[bold]{name}[/]: {resamplers}")
        params = train_run(config, output / name, data_folder, operation)["params"]
        results[name] = {
            "parameters": count_parameters(params),
            **evaluate(config, params, examples),
        }
        model = make_model(config)
        images, masks = (jnp.stack([e[key] for e in shown]) for key in ("image", "mask"))
        filled[name] = list(
            np.asarray(jax.jit(fill, static_argnums=0)(model, params, images, masks))
        )
        logs[name] = read_metrics(output / name / "metrics.jsonl")
        if name == "carafe":
            figures.save_kernels(output / "kernels.png", model, params, shown[0])
    summary = {
        "steps": steps,
        "seed": base.training.seed,
        "validation_crops": len(examples),
        "results": results,
        "caveat": _CAVEAT,
    }
    write_json(output / "results.json", summary)
    figures.save_comparison(output / "filled.png", shown, filled)
    figures.save_loss_curves(output / "losses.png", logs)
    console.print(_table(results, steps, len(examples)))
    console.print(_CAVEAT)
    predict = f"{sys.executable} -m experiments.inpainting predict"
    console.print(
        f"See {output}/filled.png, kernels.png and losses.png. To fill a hole of your own:"
    )
    console.print(f"    {predict} IMAGE --mask MASK --run {output}/carafe", soft_wrap=True)


def _spread(examples: list[Batch], count: int) -> list[Batch]:
    numbers = np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int)
    return [examples[number] for number in numbers]


def _table(results: dict[str, dict[str, float]], steps: int, crops: int) -> Table:
    table = Table(title=f"{crops} crops of photographs not trained on, after {steps} steps")
    table.add_column("")
    for heading in ("parameters", "L1 %", "PSNR image, dB", "PSNR hole, dB"):
        table.add_column(heading, justify="right")
    for name, row in results.items():
        table.add_row(
            name,
            f"{row['parameters']:,.0f}",
            f"{row['l1_percent']:.2f}",
            f"{row['psnr_image']:.2f}",
            f"{row['psnr_hole']:.2f}",
        )
    return table
