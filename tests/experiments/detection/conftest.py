import pytest

from experiments.detection.task import train_run
from experiments.engine.settings import Operation
from tests.experiments.data.composed.fake_stamps import write_fake_stamps
from tests.experiments.detection.tiny import TINY


@pytest.fixture(scope="session")
def stamps_cache(tmp_path_factory):
    """A folder that holds what stands in for the stamps."""
    cache = tmp_path_factory.mktemp("stamps")
    write_fake_stamps(cache)
    return cache


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory):
    """A folder of tfds data sets, into which scenes are built when they are asked for."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, scenes_dir, stamps_cache):
    """A run of six steps, with a checkpoint after every second; it is no good."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    operation = Operation(log_every=1, checkpoint_every=2, keep_last=3)
    train_run(TINY, folder, scenes_dir, operation, stamps_cache)
    return folder
