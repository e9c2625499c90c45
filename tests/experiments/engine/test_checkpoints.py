import math
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import checkpoints
from experiments.engine import config as configs
from experiments.engine.checkpoints import CheckpointError, Checkpoints, restore, restore_state
from experiments.engine.checksums import verify_checksums
from experiments.engine.input import Input
from experiments.engine.monitoring.logs import read_log, read_metrics
from experiments.engine.step import first_carry
from tests.experiments.engine import fitted, toy
from tests.experiments.engine.toy import run

ROOT = Path(__file__).parents[3]


def carry(state=toy.START):
    return first_carry(state, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run(folder, 10)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def truncate(folder, pattern):
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "pattern", ["*", "state/d/*", "state/_METADATA", "state/manifest.ocdbt", "data/*", "progress/*"]
)
def test_a_truncated_newest_checkpoint_is_reported_and_the_previous_one_is_used(
    trained, copied, pattern, capsys
):
    truncate(copied / "checkpoints/10", pattern)
    run(copied, 10)
    assert read_metrics(copied / "metrics.jsonl") == read_metrics(trained / "metrics.jsonl")
    (incident,) = read_log(copied / "incidents.jsonl")
    assert incident["incident"] == "damaged checkpoint"
    assert "checkpoints/10 is damaged" in incident["message"]
    assert "checkpoints/10 is damaged" in capsys.readouterr().out
    assert (copied / "damaged/10").is_dir()
    assert checkpoints.steps_in(copied / "checkpoints") == [5, 10]


def test_prediction_skips_a_truncated_checkpoint(trained, copied):
    truncate(copied / "checkpoints/10", "state/d/*")
    restored = restore_state(copied / "checkpoints", carry())
    assert restored.step == 5
    assert "checkpoints/10" in restored.damaged[0]


def test_a_checkpoint_deleted_by_an_active_run_does_not_count_as_damaged(copied, monkeypatch):
    folder = copied / "checkpoints"
    first, second = (folder / str(step) for step in (5, 10))
    second.rename(copied / "renamed")

    def verify(path):
        # The run continues as soon as its only checkpoint is read.
        if path == first and first.exists():
            (copied / "renamed").rename(second)
            shutil.rmtree(first)
        verify_checksums(path)

    monkeypatch.setattr(checkpoints, "verify_checksums", verify)
    restored = restore_state(folder, carry())
    assert (restored.step, restored.damaged) == (10, ())
    shutil.rmtree(second)
    with pytest.raises(CheckpointError, match=f"{folder} holds no checkpoint"):
        restore_state(folder, carry())


def test_without_an_undamaged_checkpoint_a_run_does_not_start_again(copied):
    truncate(copied / "checkpoints", "manifest.ocdbt")
    with pytest.raises(CheckpointError, match=r"10 is damaged: .*5 is damaged.* there is no other"):
        run(copied, 10)
    assert checkpoints.steps_in(copied / "checkpoints") == [5, 10]


def test_a_run_continues_from_a_checkpoint_of_version_0_1(tmp_path):
    """The format of checkpoints must stay readable, even if the class of the carry changes."""
    shutil.copytree(Path(__file__).parent / "fitted_checkpoints", tmp_path / "old/checkpoints")
    configs.save(fitted.Config(), tmp_path / "old/config.json")
    fitted.run(tmp_path / "old", 10)
    fitted.run(tmp_path / "new", 10)
    old, new = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("old", "new"))
    assert old[0]["step"] == 5
    for line, expected in zip(old, new[-len(old) :], strict=True):
        np.testing.assert_equal(line.keys(), expected.keys())
        np.testing.assert_allclose([*line.values()], [*expected.values()], rtol=1e-5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"sum": jnp.zeros(3)}, r"state/sum: expected float32\[3\], found float32\[\]"),
        ({"product": jnp.zeros(())}, r"state/product: expected float32\[\], found nothing"),
        ({**toy.START, "more": jnp.zeros(2)}, r"state/more: expected float32\[2\], found nothing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_field_by_field(trained, other, message):
    with pytest.raises(CheckpointError, match=f"another model.*{message}"):
        restore_state(trained / "checkpoints", carry(other))
    data = Input(toy.batches(), workers=0)
    with pytest.raises(CheckpointError, match=f"another model.*{message}"):
        restore(trained / "checkpoints", carry(other), data.iterator)
    data.close()


def save(folder, scores, keep_last=1, keep_best=1):
    """Saves a checkpoint for each score, and marks it if the score is not None."""
    state = {"x": np.arange(3.0)}
    store = Checkpoints(folder, keep_last, keep_best, best="score")
    for step, score in scores.items():
        store.save(step, state, None, {})
        if score is not None:
            store.add_metrics(step, {"score": score} if score != MISSING else {})
    store.close()
    return state


MISSING = 404


@pytest.mark.parametrize(
    ("scores", "keep", "left"),
    [
        ({1: 0.1, 2: 0.9, 3: 0.2}, (1, 1), [2, 3]),
        ({1: 0.1, 2: 0.9, 3: 0.95}, (1, 1), [3]),
        ({1: 0.1, 2: 0.9, 3: 0.2, 4: None}, (1, 1), [2, 4]),
        ({1: 0.3, 2: 0.9, 3: 0.2, 4: 0.1}, (1, 2), [1, 2, 4]),
        ({1: 0.3, 2: 0.9, 3: 0.2, 4: 0.1}, (2, 0), [3, 4]),
        ({1: 0.5, 2: 0.5, 3: 0.2}, (1, 1), [2, 3]),
        ({1: 0.5, 2: math.nan, 3: MISSING, 4: None}, (1, 1), [1, 4]),
        ({1: math.nan, 2: None}, (1, 1), [2]),
    ],
)
def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path, scores, keep, left):
    save(tmp_path, scores, *keep)
    assert checkpoints.steps_in(tmp_path) == left


def test_the_best_checkpoint_is_kept_after_a_restart(tmp_path):
    save(tmp_path, {1: 0.1, 2: 0.9, 3: 0.2})
    state = save(tmp_path, {4: 0.3})
    assert checkpoints.steps_in(tmp_path) == [2, 4]
    assert restore_state(tmp_path, state, best="score").metrics == {"score": 0.9}


def test_nan_is_not_the_best(tmp_path):
    state = save(tmp_path, {1: 0.5, 2: math.nan, 3: 0.1}, keep_last=3)
    assert restore_state(tmp_path, state, best="score").step == 1


def test_altered_metrics_are_found(tmp_path):
    state = save(tmp_path, {1: 0.5, 2: 0.4})
    (tmp_path / "2/metrics/metrics").write_text('{"score": 0.9}')
    found = restore_state(tmp_path, state)
    assert found.step == 1
    assert "metrics/metrics has crc32" in found.damaged[0]


def test_marking_a_checkpoint_does_not_hide_earlier_damage(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, {"x": np.arange(3.0)}, None, {})
    truncate(tmp_path / "1", "manifest.ocdbt")
    store.add_metrics(1, {"score": 1.0})
    store.close()
    with pytest.raises(CheckpointError, match=r"1 is damaged: .*manifest\.ocdbt has bytes"):
        restore_state(tmp_path, {"x": np.zeros(3)})


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, "[1]", '{"a": 3}', '{"a": {"bytes": []}}'])
def test_unreadable_checksums_count_as_damage(tmp_path, damage):
    state = save(tmp_path, {1: 0.5, 2: 0.4})
    (tmp_path / "2/checksums.json").write_text(damage)
    found = restore_state(tmp_path, state)
    assert found.step == 1
    assert "checksums.json" in found.damaged[0]


def test_a_checkpoint_whose_checksums_cannot_be_read_is_not_marked(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, {"x": np.arange(3.0)}, None, {})
    (tmp_path / "1/checksums.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics.*1 .*checksums\.json"):
        store.add_metrics(1, {"score": 1.0})
    store.close()
    assert not (tmp_path / "1/metrics").exists()


@pytest.mark.parametrize("file", ["metrics/metrics", "progress/metadata"])
@pytest.mark.parametrize("damage", ["[1]", '{"score": "x"}', '{"score": 1' + "0" * 400 + "}"])
def test_unreadable_numbers_count_as_damage_even_without_checksums(tmp_path, file, damage):
    state = save(tmp_path, {1: 0.5, 2: 0.4})
    (tmp_path / "2/checksums.json").unlink()
    (tmp_path / "2" / file).write_text(damage)
    found = restore_state(tmp_path, state)
    assert found.step == 1
    assert file.rpartition("/")[2] in found.damaged[0]


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, "[1]", '{"score": 1' + "0" * 400 + "}"])
def test_unreadable_metrics_of_an_older_checkpoint_do_not_stop_a_run(tmp_path, damage):
    save(tmp_path, {1: 0.1, 2: 0.9, 3: 0.2})
    (tmp_path / "2/metrics/metrics").write_text(damage)
    save(tmp_path, {4: 0.3})
    assert checkpoints.steps_in(tmp_path) == [4]


def test_a_failure_to_write_metrics_leaves_the_checkpoint_unchanged(tmp_path):
    state = save(tmp_path, {1: None})
    (tmp_path / "1/metrics").write_text("in the way")
    store = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"metrics of the checkpoint .*/1 .*File exists"):
        store.add_metrics(1, {"score": 1.0})
    store.close()
    (tmp_path / "1/metrics").unlink()
    assert restore_state(tmp_path, state).metrics is None


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no checkpoint"):
        restore_state(tmp_path, carry())


# Trains five steps, then five more with too little space for a checkpoint.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from tests.experiments.engine import toy
from experiments.engine.checkpoints import CheckpointError

folder, kind = Path(sys.argv[1]), sys.argv[2]
big = {**toy.START, "big": np.random.default_rng(0).random(300_000).astype(np.float32)}
def step(state, batch, key, number):
    new, metrics = toy.step(state, batch, key, number)
    return {**new, "big": state["big"]}, metrics

toy.run(folder / "run", 5, state=big, step=step)
if kind == "no space left":
    (folder / "filler").write_bytes(bytes(2_500_000))
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    toy.run(folder / "run", 10, state=big, step=step)
except CheckpointError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    "kind", [pytest.param("no space left", marks=pytest.mark.slow), "file too large"]
)
def test_a_failure_to_write_a_checkpoint_leaves_older_ones_unchanged(tmp_path, kind):
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path), kind]
    if kind == "no space left":
        small_disk = f"mount -t tmpfs -o size=4m tmpfs {tmp_path}"
        inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
        if subprocess.run([*inside, small_disk], capture_output=True).returncode:
            pytest.skip("this machine does not let tests mount a file system")
        check = f"{shlex.join(program)} && find {tmp_path}/run/checkpoints -maxdepth 1"
        program = [*inside, f"{small_disk} && {check}"]
    else:
        program = [
            "sh",
            "-c",
            f"{shlex.join(program)} && find {tmp_path}/run/checkpoints -maxdepth 1",
        ]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert "refused: the checkpoint of step 10 could not be written" in done.stdout, done.stderr
    assert kind in done.stdout.lower()
    assert "the newest complete one is of step 5" in done.stdout
    left = [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("/")]
    assert [name for name in left if name.isdigit()] == ["5"]
