"""Runs of two seeds that are not trained, and checks of the results of their studies."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.engine.checkpoints import CheckpointError
from experiments.engine.runs import LoadedRun
from experiments.kernel_studies.replacement import KINDS


class FakeRuns:
    """Runs in memory, by the name of their folder."""

    def __init__(self, **loaded):
        self.loaded = loaded

    def load_config(self, folder):
        if folder.name not in self.loaded:
            raise CheckpointError(f"{folder} holds no run")
        return self.loaded[folder.name].config

    def load(self, folder, checkpoint):
        assert checkpoint == "newest"
        return self.loaded[folder.name]


def make_runs(config, initial_state, change=lambda state: state):
    """Runs a and b, which differ in their seeds."""
    configs = {name: config.with_training(seed=seed) for name, seed in (("a", 3), ("b", 4))}
    return FakeRuns(
        **{name: LoadedRun(each, change(initial_state(each)), 7) for name, each in configs.items()}
    )


def load_instead(monkeypatch, spec, runs):
    """Makes the commands of a task load these runs.

    Args:
        monkeypatch: the fixture of pytest.
        spec: module of the task's spec.
        runs: the runs.
    """
    monkeypatch.setattr(spec, "SPEC", dataclasses.replace(spec.SPEC, run_type=runs))


def with_box_kernels(state):
    """A state whose networks predict logits of 0."""

    def zeroed(path, leaf):
        return leaf * 0 if "content_encoder" in jax.tree_util.keystr(path) else leaf

    return jax.tree_util.tree_map_with_path(zeroed, state)


def check_replacements(output, runs, evaluate, metrics, images, printed):
    """Checks own kernels and box filters of all runs by evaluations without replaced kernels."""
    results = json.loads((output / "results.json").read_text())
    table = (output / "table.md").read_text()
    assert results["images"] == images
    assert f"{images} images of validation, seeds 3, 4, step 7" in table
    assert {name: run["seed"] for name, run in results["runs"].items()} == {"a": 3, "b": 4}
    assert list(results["kernels"]) == list(KINDS)
    for name, run in runs.loaded.items():
        for kind, state in (("own", run.state), ("box", with_box_kernels(run.state))):
            expected = evaluate(state)
            found = results["kernels"][kind]["runs"][name]
            for metric in metrics:
                assert found[metric] == pytest.approx(expected[metric], rel=1e-4), (kind, metric)
    for kind in KINDS:
        entry = results["kernels"][kind]
        for metric in metrics:
            values, own = (
                np.array([results["kernels"][each]["runs"][run][metric] for run in "ab"])
                for each in (kind, "own")
            )
            for key, numbers in (("metrics", values), ("against_own", values - own)):
                spread = entry[key][metric]
                assert spread["mean"] == pytest.approx(numbers.mean())
                assert spread["deviation"] == pytest.approx(numbers.std(ddof=1))
        assert f"\n| {kind} |" in table
        assert f"│ {kind} " in printed
    return results


def check_sums(output, images, layers, printed):
    """Checks the table of networks that predict box filters."""
    results = json.loads((output / "results.json").read_text())
    assert results["images"] == images
    assert list(results["layers"]) == layers
    for name, layer in results["layers"].items():
        assert len(layer["box"]) == 3
        for carafe, box in zip(layer["carafe"], layer["box"], strict=True):
            assert (carafe is None) == (box is None)
            if box is not None:
                assert carafe["mean"] == pytest.approx(box["mean"], rel=1e-5)
                assert carafe["deviation"] == pytest.approx(0, abs=1e-6)
        assert layer["carafe_all"]["mean"] == pytest.approx(layer["box_all"]["mean"], rel=1e-5)
        assert f"| {name} | box |" in (output / "table.md").read_text()
        assert name in printed
    return results
