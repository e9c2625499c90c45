import dataclasses
import json

import jax
import numpy as np
import pytest
from experiments.inpainting.report.experiment import run_experiment
from experiments.inpainting.report.results import summarize
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.engine.logs import read_metrics
from experiments.engine.optimization import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import Preset
from experiments.engine.settings import Operation, TrainingConfig
from experiments.inpainting.configs import AdversarialConfig, DataConfig, InpaintingConfig
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.model.generators import GeneratorConfig
from experiments.inpainting.report import experiment
from experiments.inpainting.report.compare import compare
from experiments.inpainting.task import initial_state

BASELINE = InpaintingConfig(
    model=GeneratorConfig(width=2, levels=1, norm="none"),
    data=DataConfig(crop_side=16),
    adversarial=AdversarialConfig(weight=0),
    training=TrainingConfig(
        batch_size=4,
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
        schedule=ScheduleConfig(length=3, decay="constant"),
    ),
)
CARAFE = dataclasses.replace(
    BASELINE, model=dataclasses.replace(BASELINE.model, downsampler="carafe", upsampler="carafe")
)
PRESETS = (
    Preset("tiny", "Tiny", BASELINE, "PSNR 12.34 dB"),
    Preset("tiny-carafe", "Tiny w/ CARAFE++", CARAFE, "PSNR 23.45 dB"),
)
SEEDS = (3, 5)
RUNS = [f"{preset.name}-seed{seed}" for preset in PRESETS for seed in SEEDS]


class KilledError(RuntimeError):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_folder):
    """An experiment that was broken off before its third run, and called again."""
    output, data_dir = tmp_path_factory.mktemp("experiment"), data_folder.parents[2]
    arguments = ("Tiny", PRESETS, SEEDS, output, data_dir, Operation(log_every=1, evaluate_every=2))
    train_run, trained = experiment.train_run, []

    def killed_before_the_third(config, folder, *rest):
        if len(trained) == 2:
            raise KilledError
        trained.append(folder.name)
        return train_run(config, folder, *rest)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(experiment, "train_run", killed_before_the_third)
        with pytest.raises(KilledError):
            run_experiment(*arguments)
    before = {name: starts_of(output / name) for name in trained}
    run_experiment(*arguments)
    return output, data_dir, before


def starts_of(run):
    return (run / "metrics.jsonl").read_bytes(), sorted((run / "checkpoints").iterdir())


def evaluations(output, preset):
    """The last lines of the logs, one a seed."""
    logs = [read_metrics(output / f"{preset}-seed{seed}/metrics.jsonl") for seed in SEEDS]
    lines = [[line for line in log if "eval/psnr_hole" in line][-1] for log in logs]
    return [{key.removeprefix("eval/"): value for key, value in line.items()} for line in lines]


@pytest.mark.slow
def test_what_was_done_is_not_done_again(finished):
    output, _, before = finished
    assert list(before) == RUNS[:2]
    for name, starts in before.items():
        assert starts_of(output / name) == starts
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == sorted(RUNS)


@pytest.mark.slow
def test_results_are_means_spreads_and_gains_over_the_seeds(finished):
    output, _, _ = finished
    results = json.loads((output / "results.json").read_text())["presets"]
    baseline, carafe = (evaluations(output, preset.name) for preset in PRESETS)
    assert baseline[0] != baseline[1]
    for preset, runs in zip(PRESETS, (baseline, carafe), strict=True):
        result = results[preset.name]
        for name in METRICS:
            values = [run[name] for run in runs]
            assert result["runs"]["5"][name] == values[1]
            assert result["metrics"][name]["mean"] == pytest.approx(np.mean(values))
            deviation = np.std(values, ddof=1)
            assert result["metrics"][name]["deviation"] == pytest.approx(deviation, abs=1e-9)
        params = initial_state(preset.config)["generator"]["params"]
        assert result["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
        assert result["flops"] > 0
    assert (results["tiny"]["baseline"], results["tiny-carafe"]["baseline"]) == (None, "tiny")
    pairs = zip(carafe, baseline, strict=True)
    gains = [ours["psnr_hole"] - theirs["psnr_hole"] for ours, theirs in pairs]
    assert results["tiny-carafe"]["gains"]["psnr_hole"]["mean"] == pytest.approx(np.mean(gains))
    table = (output / "table.md").read_text()
    (line,) = [line for line in table.splitlines() if line.endswith("PSNR 23.45 dB |")]
    assert "| +1.35 |" in line
    assert "sample standard deviation" in table


@pytest.mark.slow
def test_the_pictures_are_there(finished):
    for name in ("fills.png", "curves.png", "kernels.png"):
        with Image.open(finished[0] / name) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture).std() > 10


@pytest.mark.slow
def test_comparing_its_runs_gives_the_same_metrics(finished, tmp_path):
    output, data_dir, _ = finished
    compare([output / RUNS[0], output / RUNS[2]], tmp_path, data_dir)
    found = json.loads((tmp_path / "compare.json").read_text())["runs"]
    for name, preset in ((RUNS[0], "tiny"), (RUNS[2], "tiny-carafe")):
        expected = evaluations(output, preset)[0]
        expected.pop("step")
        assert found[name]["metrics"] == pytest.approx(expected, rel=1e-5)


def metrics_of(psnr):
    return {**dict.fromkeys(METRICS, psnr), "images/10-20": 4} | {
        f"{name}/10-20": psnr for name in METRICS
    }


def test_one_seed_is_said_to_rank_nothing():
    presets = {preset.name: preset for preset in PRESETS}
    one = summarize("Tiny", presets, [3], {name: [metrics_of(20.0)] for name in presets})
    assert "One seed ranks nothing" in one.note
    assert one.results["presets"]["tiny"]["metrics"]["psnr_hole"]["deviation"] is None
    assert one.tables[0].title == "Tiny: 4 validation images of pypi, seed 3"
    two = [metrics_of(20.0), metrics_of(21.0)]
    several = summarize("Tiny", presets, [3, 5], dict.fromkeys(presets, two))
    assert "ranks nothing" not in several.note
    assert several.tables[0].rows[0][2] == "20.50 ± 0.71"
    assert several.tables[2].rows[1][3:7] == ("+0.00 ± 0.00", "-0.87", "+0.00 ± 0.00", "+1.35")
    assert several.tables[2].rows[0][3:7] == ("", "", "", "")


@pytest.mark.parametrize(
    ("presets", "seeds", "message"),
    [
        ((), (0,), "presets must be one or more, all different"),
        ((PRESETS[0], PRESETS[0]), (0,), "presets must be one or more, all different"),
        (PRESETS, (), "seeds must be one or more, all different"),
        (PRESETS, (1, 1), "seeds must be one or more, all different"),
    ],
)
def test_presets_and_seeds_are_there_once(tmp_path, presets, seeds, message):
    with pytest.raises(ConfigError, match=message):
        run_experiment("Tiny", presets, seeds, tmp_path / "out", tmp_path, Operation())


def test_presets_on_different_data_are_refused(tmp_path):
    data = dataclasses.replace(CARAFE.data, source="debian")
    other = Preset("other", "Other", dataclasses.replace(CARAFE, data=data), "")
    with pytest.raises(ConfigError, match=r"data\.source: 'pypi' -> 'debian'"):
        run_experiment("Tiny", (PRESETS[0], other), (0,), tmp_path, tmp_path, Operation())
    assert not list(tmp_path.iterdir())
