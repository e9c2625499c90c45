import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.data.coco_annotations import Category
from experiments.detection.data.config import DataConfig
from experiments.detection.prediction.predict import DETECTIONS, predict, show
from experiments.engine.errors import InputError
from experiments.engine.predictions import report

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CATEGORIES = (Category(3, "cup"), Category(90, "brush"))
CONFIG = DataConfig(shorter=50, longer=90)  # buckets of 64 x 96 and 96 x 64


def make_infer(masks=False):
    """Detects a brush in the middle, and with a lower score a cup in the upper left quarter."""
    shapes = []

    @jax.jit
    def infer(image, size):
        shapes.append(image.shape)
        height, width = size[0, 0], size[0, 1]
        middle = jnp.stack([width / 4, height / 4, 3 * width / 4, 3 * height / 4])
        quarter = jnp.stack([jnp.zeros(()), jnp.zeros(()), width / 2, height / 2])
        found = {
            "boxes": jnp.stack([middle, quarter, quarter])[None],
            "scores": jnp.array([[0.75, 0.25, 0.125]]),
            "labels": jnp.array([[1, 0, 0]]),
            "valid": jnp.array([[True, True, False]]),
        }
        return {**found, "masks": jnp.ones((1, 3, 28, 28))} if masks else found

    return infer, shapes


def save(path, height=40, width=60, **options):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(files, output, masks=False):
    infer, _ = make_infer(masks)
    return list(predict(files, output, infer, CONFIG, CATEGORIES))


def test_detections_are_written_and_drawn_in_pixels_of_the_image(tmp_path):
    files = [save(tmp_path / "in/wide.jpg", 40, 60), save(tmp_path / "in/high.png", 301, 77)]
    drawings = run(files, tmp_path / "new/out", masks=True)
    outputs = [tmp_path / "new/out/wide.png", tmp_path / "new/out/high.png"]
    assert [(file, drawing.output) for file, drawing in drawings] == [
        *zip(files, outputs, strict=True)
    ]
    wide, high = json.loads((tmp_path / "new/out" / DETECTIONS).read_text())
    assert (wide["file"], wide["height"], wide["width"]) == (str(files[0]), 40, 60)
    brush, cup = wide["detections"]
    assert set(brush) == {"category", "category_id", "bbox", "score", "segmentation"}
    assert (brush["category"], brush["category_id"], brush["score"]) == ("brush", 90, 0.75)
    assert (cup["category"], cup["category_id"], cup["score"]) == ("cup", 3, 0.25)
    assert brush["bbox"] == pytest.approx([15, 10, 30, 20])
    assert brush["segmentation"]["size"] == [40, 60]
    assert high["detections"][0]["bbox"] == pytest.approx([77 / 4, 301 / 4, 77 / 2, 301 / 2])
    for output, shape in zip(outputs, [(40, 60, 3), (301, 77, 3)], strict=True):
        assert read(output).shape == shape
    # The cup's score is too low: its box, which would cross the upper edge, is not drawn.
    before = read(files[1])
    drawn = read(outputs[1])
    np.testing.assert_array_equal(drawn[:40], before[:40])
    assert (drawn != before).any()


def test_infer_is_compiled_once_for_each_orientation(tmp_path):
    sizes = [(40, 60), (30, 100), (64, 64), (60, 40), (200, 31), (33, 50)]
    files = [save(tmp_path / f"{number}.jpg", *size) for number, size in enumerate(sizes)]
    infer, shapes = make_infer()
    assert len(list(predict(files, tmp_path / "out", infer, CONFIG, CATEGORIES))) == 6
    assert sorted(shapes) == [(1, 64, 96, 3), (1, 96, 64, 3)]


def test_the_exif_orientation_of_an_image_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = save(tmp_path / "turned.jpg", 40, 60, exif=exif)
    ((_, drawing),) = run([file], tmp_path / "out")
    assert read(drawing.output).shape == (60, 40, 3)
    assert drawing.results[0]["bbox"] == pytest.approx([10, 15, 20, 30])


def test_an_image_that_cannot_be_read_is_reported_and_does_not_stop_the_others(tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    files = [bad, save(tmp_path / "good.jpg"), tmp_path / "missing.jpg"]
    infer, _ = make_infer()
    show_each = functools.partial(show, dict(CATEGORIES))
    with pytest.raises(SystemExit) as caught:
        report(predict(files, tmp_path / "out", infer, CONFIG, CATEGORIES), show_each)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert f"{files[1]} -> {tmp_path}/out/good.png: brush 0.75\n" in output.out
    assert "cup" not in output.out
    assert [line.split(" cannot")[0] for line in output.err.splitlines()] == [
        f"error: image {bad}",
        f"error: image {tmp_path}/missing.jpg",
    ]
    (entry,) = json.loads((tmp_path / "out" / DETECTIONS).read_text())
    assert entry["file"] == str(files[1])
    report(predict(files[1:2], tmp_path / "out", infer, CONFIG, CATEGORIES), show_each)


def test_an_image_on_which_the_network_overflows_is_named(tmp_path):
    infer, _ = make_infer()

    def overflowing(image, size):
        found = infer(image, size)
        dark = image.max() < 9
        return {**found, "scores": jnp.where(dark, found["scores"], jnp.nan)}

    files = [save(tmp_path / "in/bright.jpg"), tmp_path / "in/dark.png"]
    Image.new("RGB", (60, 40)).save(files[1])
    (_, error), (_, good) = predict(files, tmp_path / "out", overflowing, CONFIG, CATEGORIES)
    assert isinstance(error, InputError)
    assert f"image {files[0]}: the detector must give finite" in str(error)
    assert good.output == tmp_path / "out/dark.png"
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["dark.png"]


def test_inputs_and_other_drawings_are_not_overwritten(tmp_path):
    files = [save(tmp_path / "a.png"), save(tmp_path / "b.jpg"), save(tmp_path / "sub/b.png")]
    before = files[0].read_bytes()
    (_, own), (_, first), (_, second) = run(files, tmp_path)
    assert isinstance(own, InputError)
    assert "must not be an input file" in str(own)
    assert files[0].read_bytes() == before
    assert first.output == tmp_path / "b.png"
    assert isinstance(second, InputError)
    assert "must not be the output of an earlier image" in str(second)


def test_a_drawing_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "out/blocked.png").mkdir(parents=True)
    (_, blocked), (_, good) = run(
        [save(tmp_path / "blocked.jpg"), save(tmp_path / "good.jpg")], tmp_path / "out"
    )
    assert isinstance(blocked, InputError)
    assert "blocked.png cannot be written" in str(blocked)
    assert good.output == tmp_path / "out/good.png"


def test_earlier_detections_are_kept_if_no_image_can_be_read(tmp_path):
    earlier = tmp_path / DETECTIONS
    earlier.write_text("earlier")
    assert run([], tmp_path) == []
    ((_, outcome),) = run([tmp_path / "none.jpg"], tmp_path)
    assert isinstance(outcome, InputError)
    assert earlier.read_text() == "earlier"


def test_any_file_name_is_accepted_and_written_as_text(tmp_path, capsys):
    names = [b"a\xff.png", b"b\n.png", "é.png".encode()]
    files = [save(tmp_path / "in" / os.fsdecode(name)) for name in names]
    infer, _ = make_infer()
    report(
        predict(files, tmp_path / "out", infer, CONFIG, CATEGORIES),
        functools.partial(show, dict(CATEGORIES)),
    )
    shown = [line.partition(" -> ")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == [rf"{tmp_path}/in/{name}" for name in (r"a\udcff.png", r"b\n.png", "é.png")]
    entries = json.loads((tmp_path / "out" / DETECTIONS).read_text())
    found = [entry["file"].encode().decode() for entry in entries]
    assert found == [rf"{tmp_path}/in/a\udcff.png", str(files[1]), str(files[2])]


def test_detections_are_kept_if_the_batch_is_interrupted(tmp_path):
    files = [save(tmp_path / name) for name in ("a.png", "b.png")]
    infer, _ = make_infer()
    outcomes = predict(files, tmp_path / "out", infer, CONFIG, CATEGORIES)
    next(outcomes)
    outcomes.close()
    (entry,) = json.loads((tmp_path / "out" / DETECTIONS).read_text())
    assert entry["file"] == str(files[0])
