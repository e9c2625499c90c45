import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.engine.folders import Folders
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import Comparison, Experiment, Preset
from experiments.engine.settings import Operation, TrainingConfig
from experiments.engine.tables.example_sums import read_sums
from experiments.engine.tables.experiment import run_experiment
from experiments.engine.tables.statistics import means_of
from experiments.inpainting.configs import AdversarialConfig, DataConfig, InpaintingConfig
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.presets import CATALOGUE
from experiments.inpainting.report.compare import compare
from experiments.inpainting.spec import SPEC
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
    Preset("tiny", "Tiny", BASELINE, {"psnr_image": 12.34}),
    Preset("tiny-carafe", "Tiny w/ CARAFE++", CARAFE, {"psnr_image": 23.45}),
)
PAPER = {"psnr_image": 1.35}
COMPARISONS = (Comparison("tiny-carafe", "tiny", PAPER),)
SEEDS = (3, 5)
RUNS = [f"{preset.name}-seed{seed}" for preset in PRESETS for seed in SEEDS]


class KilledError(RuntimeError):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_folder):
    """Folders of an experiment that was killed before its third run, and started again."""
    folders = Folders(data_folder.parents[2], runs=tmp_path_factory.mktemp("runs"))
    operation = Operation(log_every=1, evaluate_every=2)
    trained = []

    def killed_before_the_third(config, folder, *rest):
        if len(trained) == 2:
            raise KilledError
        trained.append(folder.name)
        return SPEC.train(config, folder, *rest)

    output = folders.runs / "inpainting"
    experiment = Experiment("Tiny", PRESETS, SEEDS, comparisons=COMPARISONS)
    catalogue = dataclasses.replace(CATALOGUE, presets=PRESETS, experiments={"tiny": experiment})
    spec = dataclasses.replace(SPEC, catalogue=catalogue)
    killed = dataclasses.replace(spec, train=killed_before_the_third)
    with pytest.raises(KilledError):
        run_experiment(killed, "tiny", None, folders, operation)
    before = {name: starts_of(output / name) for name in trained}
    run_experiment(spec, "tiny", None, folders, operation)
    return folders, before


def starts_of(run):
    return (run / "metrics.jsonl").read_bytes(), sorted((run / "checkpoints").iterdir())


def evaluations(folders, preset):
    """The last line of the log of each seed."""
    runs = [folders.runs / f"inpainting/{preset}-seed{seed}" for seed in SEEDS]
    logs = [read_metrics(run / "metrics.jsonl") for run in runs]
    lines = [[line for line in log if "eval/psnr_hole" in line][-1] for log in logs]
    return [{key.removeprefix("eval/"): value for key, value in line.items()} for line in lines]


@pytest.mark.slow
def test_finished_runs_are_not_trained_again(finished):
    folders, before = finished
    output = folders.runs / "inpainting"
    assert list(before) == RUNS[:2]
    for name, starts in before.items():
        assert starts_of(output / name) == starts
    found = sorted(path.name for path in output.iterdir() if path.is_dir())
    assert found == sorted([*RUNS, "tiny"])


@pytest.mark.slow
def test_results_are_means_spreads_and_differences_over_the_seeds(finished):
    folders, _ = finished
    output = folders.runs / "inpainting/tiny"
    found = json.loads((output / "results.json").read_text())
    results = found["presets"]
    baseline, carafe = (evaluations(folders, preset.name) for preset in PRESETS)
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
    (difference,) = found["differences"]
    assert difference["metrics"].keys() == {"l1_image", "psnr_image", "psnr_hole"}
    pairs = zip(carafe, baseline, strict=True)
    gains = [ours["psnr_hole"] - theirs["psnr_hole"] for ours, theirs in pairs]
    assert difference["metrics"]["psnr_hole"]["mean"] == pytest.approx(np.mean(gains))
    # There are only two validation photographs.
    assert difference["metrics"]["psnr_hole"]["groups"] is None
    table = (output / "table.md").read_text()
    assert "2 photographs are too few" in table
    (line,) = [line for line in table.splitlines() if line.endswith("PSNR 23.45 dB |")]
    assert f"| {carafe[0]['images/10-20']:.0f} |" in table
    (line,) = [line for line in table.splitlines() if "| +1.35 |" in line]
    assert line.startswith("| Tiny w/ CARAFE++ | Tiny |")
    assert "sample standard deviation" in table
    images = sum(n for key, n in carafe[0].items() if key.startswith("images/"))
    assert f"{images} validation images of pypi" in table


@pytest.mark.slow
def test_sums_of_examples_give_the_evaluation_in_the_log(finished):
    folders, _ = finished
    for preset in PRESETS:
        for seed, logged in zip(SEEDS, evaluations(folders, preset.name), strict=True):
            sums = read_sums(folders.runs / f"inpainting/{preset.name}-seed{seed}")
            means = means_of(sums.totals)
            assert means.keys() == {*METRICS}
            for name, mean in means.items():
                assert mean == pytest.approx(logged[name], rel=1e-5)


@pytest.mark.slow
def test_the_figures_are_written(finished):
    for name in ("fills.png", "curves.png", "differences.png", "kernels.png"):
        with Image.open(finished[0].runs / "inpainting/tiny" / name) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture).std() > 10


@pytest.mark.slow
def test_compare_gives_the_same_metrics(finished, tmp_path):
    folders, _ = finished
    runs = [folders.runs / "inpainting" / name for name in (RUNS[0], RUNS[2])]
    compare(runs, tmp_path, folders)
    found = json.loads((tmp_path / "compare.json").read_text())["runs"]
    for name, preset in ((RUNS[0], "tiny"), (RUNS[2], "tiny-carafe")):
        expected = evaluations(folders, preset)[0]
        expected.pop("step")
        assert found[name]["metrics"] == pytest.approx(expected, rel=1e-5)
