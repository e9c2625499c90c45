import io
import weakref
from functools import partial

import pytest
import tensorflow_datasets as tfds

from experiments.data.dataset_writing import in_threads, write_dataset
from experiments.data.prepared import open_builder

FEATURES = tfds.features.FeaturesDict({"image": tfds.features.Image()})


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "pictures" / "small" / "1.2.3"
    folder.parent.mkdir(parents=True)
    return folder


def test_a_dataset_has_the_name_config_and_version_of_its_folder(prepared):
    splits = {"train": [lambda: {"image": io.BytesIO(b"1")}]}
    write_dataset(prepared, "some.module", splits, features=FEATURES, homepage="https://a.b")
    builder = open_builder(prepared)
    assert builder.info.full_name == "pictures/small/1.2.3"
    assert builder.info.homepage == "https://a.b"


def test_few_records_are_in_memory_at_once(prepared):
    alive, most = weakref.WeakSet(), [0]

    def make(number):
        content = io.BytesIO(str(number).encode())
        alive.add(content)
        most.append(len(alive))
        return {"image": content}

    splits = {"train": [partial(make, number) for number in range(400)]}
    write_dataset(prepared, "some.module", splits, features=FEATURES)
    source = open_builder(prepared).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert [int(record["image"]) for record in source] == list(range(400))
    assert max(most) < 100


def test_an_interrupted_preparation_leaves_no_files(prepared):
    def interrupt():
        raise KeyboardInterrupt

    good = [lambda: {"image": io.BytesIO(b"1")}] * 200
    with pytest.raises(KeyboardInterrupt):
        write_dataset(prepared, "some.module", {"train": [*good, interrupt]}, features=FEATURES)
    assert not list(prepared.parent.iterdir())


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_shows_the_progress(prepared, monkeypatch, capsys, terminal):
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    splits = {"train": [lambda: {"image": io.BytesIO(b"1")}] * 3}
    write_dataset(prepared, "some.module", splits, features=FEATURES)
    shown = capsys.readouterr()
    assert ("writing train" in shown.err) == terminal
    assert shown.out == ""
    assert terminal or shown.err == ""


def test_results_of_threads_are_in_the_order_of_the_arguments():
    assert list(in_threads(lambda number: number**2, range(100))) == [n**2 for n in range(100)]
