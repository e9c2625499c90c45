import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.data.class_colours import class_colour
from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.engine.predictions import report
from experiments.engine.runs import LoadedRun
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.data.shapes import evaluation_size
from experiments.segmentation.prediction import predict as module
from experiments.segmentation.prediction.predict import (
    predict,
    print_predictions,
    segment_picture,
    show,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("dark", "bright", "reddish")
CONFIG = DataConfig(test_shorter=64, shorter_sides=(64,), longer=200)


def brightness(image):
    """Logits of stride 4 that find the dark half of an image."""
    batch, height, width, _ = image.shape
    blocks = image.reshape(batch, height // 4, 4, width // 4, 4, 3).astype(jnp.float32)
    mean = blocks.mean((2, 4, 5)) - 128
    return jnp.stack([-mean, mean, jnp.full_like(mean, -300)], -1)


def make_infer():
    shapes = []

    @jax.jit
    def infer(image):
        shapes.append(image.shape)
        return brightness(image)

    return infer, shapes


def half_dark(height, width, columns=None):
    """White, with the given number of black columns on the left."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[:, : width // 2 if columns is None else columns] = 0
    return pixels


def save(path, height=60, width=80, columns=None, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(half_dark(height, width, columns)).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(files, output, **options):
    infer, _ = make_infer()
    return list(predict(files, output, infer, CONFIG, NAMES, **options))


def test_label_maps_have_the_numbers_of_the_classes_and_drawings_their_colours(tmp_path):
    files = [save(tmp_path / "in/wide.jpg"), save(tmp_path / "in/high.png", 300, 77, 30)]
    found = run(files, tmp_path / "new/out")
    folder = tmp_path / "new/out"
    assert [(file, each.drawing, each.labels) for file, each in found] == [
        (files[0], folder / "wide.png", folder / "wide-labels.png"),
        (files[1], folder / "high.png", folder / "high-labels.png"),
    ]
    for (_, each), (height, width, dark) in zip(found, [(60, 80, 40), (300, 77, 30)], strict=True):
        with Image.open(each.labels) as image:
            assert image.mode == "P"
            coloured = np.asarray(image.convert("RGB"))
        labels = read(each.labels)
        assert labels.shape == (height, width)
        assert (labels[:, : dark - 2] == 0).all()
        assert (labels[:, dark + 2 :] == 1).all()
        assert (coloured[:, 0] == class_colour(0)).all()
        drawing = read(each.drawing)
        assert drawing.shape[0] > height or drawing.shape[1] > width
        right = np.array(class_colour(1)) / 2 + 127.5
        np.testing.assert_allclose(drawing[5, width - 3], right, atol=1.5)
        assert [number for number, _ in each.shares] == [1, 0] if dark == 30 else [0, 1]
        assert sum(share for _, share in each.shares) == pytest.approx(1)


def test_infer_is_compiled_once_for_each_shape(tmp_path):
    sizes = [(60, 80), (30, 40), (61, 81), (80, 60), (64, 64)]
    files = [save(tmp_path / f"{number}.png", *size) for number, size in enumerate(sizes)]
    infer, shapes = make_infer()
    assert len(list(predict(files, tmp_path / "out", infer, CONFIG, NAMES))) == 5
    wanted = {(1, *evaluation_size(*size, CONFIG), 3) for size in sizes}
    assert len(wanted) == 3
    assert sorted(shapes) == sorted(wanted)


def test_all_scales_and_mirrored_views_are_averaged():
    seen = []

    def infer(image):
        seen.append(np.array(image))
        logits = np.zeros((1, 4, 4, 3), np.float32)
        # The last view is sure of another class than the others are.
        logits[:, :, :2, 1], logits[:, :, 2:, 2] = (1, 1) if len(seen) < 4 else (0, 9)
        return jnp.asarray(logits)

    image = Image.fromarray(half_dark(64, 64))
    classes = segment_picture(image, infer, CONFIG, (1.0, 2.0), flip=True)
    sizes = [evaluation_size(64, 64, CONFIG, scale) for scale in (1.0, 2.0)]
    assert [each.shape for each in seen] == [(1, *size, 3) for size in sizes for _ in range(2)]
    for first, second in (seen[:2], seen[2:]):
        np.testing.assert_array_equal(first, second[:, :, ::-1])
        assert first[0, 0, 0, 0] < 99 < first[0, 0, -1, 0]
    # Mirrored back, the last view is sure of class 2 on the left, where class 1 would win.
    assert (classes[:, :20] == 2).all()
    assert (classes[:, -20:] == 2).all()


def test_the_exif_orientation_of_an_image_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the left side of the stored image is shown at the top
    file = save(tmp_path / "turned.jpg", exif=exif)
    ((_, segmented),) = run([file], tmp_path / "out")
    labels = read(segmented.labels)
    assert labels.shape == (80, 60)
    assert (labels[:37] == 0).all()
    assert (labels[43:] == 1).all()
    assert read(segmented.drawing).shape[0] == 80


def test_an_image_that_cannot_be_read_is_reported_and_does_not_stop_the_others(tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    files = [bad, save(tmp_path / "good.jpg", columns=20), tmp_path / "missing.jpg"]
    infer, _ = make_infer()
    show_each = functools.partial(show, NAMES)
    with pytest.raises(SystemExit) as caught:
        report(predict(files, tmp_path / "out", infer, CONFIG, NAMES), show_each)
    assert caught.value.code == 2
    output = capsys.readouterr()
    written = f"{tmp_path}/out/good.png, {tmp_path}/out/good-labels.png"
    assert output.out.startswith(f"{files[1]} -> {written}: bright 7")
    assert output.out.count("\n") == 1
    assert ", dark 2" in output.out
    assert "reddish" not in output.out
    assert [line.split(" cannot")[0] for line in output.err.splitlines()] == [
        f"error: image {bad}",
        f"error: image {tmp_path}/missing.jpg",
    ]


def test_only_the_largest_classes_are_printed(tmp_path, capsys):
    names = [f"class {number}" for number in range(7)]
    found = [(number, (7 - number) / 28) for number in range(7)]
    show(names, tmp_path / "a.jpg", module.Segmented(tmp_path / "b", tmp_path / "c", found))
    line = capsys.readouterr().out
    assert line.endswith("class 4 10.7 %, 2 more\n")
    show(names, tmp_path / "a.jpg", module.Segmented(tmp_path / "b", tmp_path / "c", found[:5]))
    assert "more" not in capsys.readouterr().out


def test_an_image_on_which_the_network_overflows_is_named(tmp_path):
    def overflowing(image):
        logits = brightness(image)
        return jnp.where(image.max() < 9, logits, logits.at[0, 0, 0, 0].set(jnp.nan))

    files = [save(tmp_path / "in/bright.jpg"), save(tmp_path / "in/dark.png", columns=80)]
    (_, error), (_, good) = predict(files, tmp_path / "out", overflowing, CONFIG, NAMES)
    assert isinstance(error, InputError)
    assert f"image {files[0]}: the network must give finite" in str(error)
    assert good.drawing == tmp_path / "out/dark.png"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dark.png", "dark-labels.png"}


def test_inputs_and_other_results_are_not_overwritten(tmp_path):
    files = [
        save(tmp_path / "a.png"),
        save(tmp_path / "b.jpg"),
        save(tmp_path / "sub/b.png"),
        save(tmp_path / "c.jpg"),
        save(tmp_path / "c-labels.png"),
        save(tmp_path / "b-labels.jpg"),
    ]
    before = [file.read_bytes() for file in files]
    outcomes = [outcome for _, outcome in run(files, tmp_path)]
    assert [file.read_bytes() for file in files] == before
    assert outcomes[1].drawing == tmp_path / "b.png"
    messages = {
        0: r"output .*a\.png must not be an input",
        2: r"output .*b\.png must not be the output of an earlier image",
        3: r"output .*c-labels\.png must not be an input",
        4: r"output .*c-labels\.png must not be an input",
        5: r"output .*b-labels\.png must not be the output of an earlier image",
    }
    for number, message in messages.items():
        with pytest.raises(InputError, match=message):
            raise outcomes[number]
    assert not (tmp_path / "a-labels.png").exists()
    assert not (tmp_path / "c.png").exists()


def test_a_result_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "out/blocked-labels.png").mkdir(parents=True)
    (_, blocked), (_, good) = run(
        [save(tmp_path / "blocked.jpg"), save(tmp_path / "good.jpg")], tmp_path / "out"
    )
    assert isinstance(blocked, InputError)
    assert "blocked-labels.png cannot be written" in str(blocked)
    assert good.labels == tmp_path / "out/good-labels.png"


def test_a_run_segments_with_its_own_parameters_and_names(tmp_path, monkeypatch, capsys):
    state = {"params": {"sign": jnp.float32(1)}, "model_state": {}, "optimizer": object()}
    loaded = LoadedRun(SegmentationConfig(data=CONFIG), state, 3)

    class Runs:
        def load(self, folder, checkpoint):
            assert (folder, checkpoint) == (tmp_path / "run", "best")
            return loaded

    def read_class_names(folder, count):
        assert (folder, count) == (tmp_path / "run", 150)
        return NAMES

    def segment(model, state, image):
        assert model == "model"
        return state["params"]["sign"] * brightness(image)

    monkeypatch.setattr(module, "RUNS", Runs())
    monkeypatch.setattr(module, "read_class_names", read_class_names)
    monkeypatch.setattr(module, "make_model", lambda config: "model")
    monkeypatch.setattr(module, "segment", segment)
    file = save(tmp_path / "a.png", columns=74)
    print_predictions(tmp_path / "run", [file], tmp_path / "out", "best", (0.5, 1.0), True)
    assert "a-labels.png: dark 9" in capsys.readouterr().out
    assert (read(tmp_path / "out/a-labels.png")[:, :66] == 0).all()


class Maps:
    """Draws one figure, the image at the size of the network's input."""

    kinds = ("maps-up",)

    def __call__(self, pixels, class_map, title):
        self.seen = pixels.shape, class_map.shape, title
        return {"maps-up": pixels[0]}


def test_maps_are_written_beside_the_drawing_and_show_the_first_scale(tmp_path, capsys):
    files = [save(tmp_path / "in/a.png"), save(tmp_path / "in/a-maps-up.png")]
    maps = Maps()
    (first, found), (_, other) = run(files, tmp_path / "out", scales=(2.0, 1.0), maps=maps)
    assert found.maps == (tmp_path / "out/a-maps-up.png",)
    size = evaluation_size(60, 80, CONFIG, 2.0)
    assert read(found.maps[0]).shape == (*size, 3)
    assert maps.seen == ((1, *size, 3), (60, 80), "a.png")
    assert isinstance(other, InputError)
    assert "a-maps-up.png must not be the output of an earlier image" in str(other)
    show(NAMES, first, found)
    assert "a-labels.png, " in (line := capsys.readouterr().out)
    assert "a-maps-up.png: dark" in line


def test_bad_arguments_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"images .*one"):
        print_predictions(tmp_path, [], tmp_path)
    for scales in ((), (0.0,), (1.0, -1.0), (float("inf"),), (float("nan"),)):
        with pytest.raises(ConfigError, match=r"scales .*positive"):
            print_predictions(tmp_path, [tmp_path / "a.png"], tmp_path, scales=scales)
