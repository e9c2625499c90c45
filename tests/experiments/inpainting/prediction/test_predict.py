import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from experiments.engine.errors import InputError
from experiments.inpainting.__main__ import predict as predict_command
from experiments.inpainting.prediction.holes import HoleChoice, hole_from_brush
from experiments.inpainting.prediction.inpainter import load_inpainter
from experiments.inpainting.prediction.predict import predict, read_picture
from tests.experiments.inpainting.prediction.runs import BOX, pixels
from tests.slow import slow

pytestmark = pytest.mark.usefixtures("few_optimizations")


def save(path, values=None, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels() if values is None else values).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return np.asarray(image)


def outcomes(*arguments, **options):
    """The file written for each image, or the error, by the image's name."""
    return {
        picture.name: outcome if isinstance(outcome, InputError) else outcome.output
        for picture, outcome in predict(*arguments, **options)
    }


def test_only_the_hole_changes(run, tmp_path):
    image = save(tmp_path / "image.png")
    ((picture, filled),) = predict(run, image, BOX, tmp_path / "new/out.png")
    assert (picture, filled.output, filled.note) == (image, tmp_path / "new/out.png", None)
    changed = (read(filled.output) != pixels()).any(-1)
    assert changed[5:12, 8:20].all()
    assert changed.sum() == 7 * 12


def test_the_mask_and_the_working_side_are_used(run, tmp_path):
    values = pixels(80, 120)
    mask = np.zeros((80, 120), np.uint8)
    mask[20:50, 30:90] = 255
    image, mask_path = save(tmp_path / "image.png", values), save(tmp_path / "mask.png", mask)
    holes = HoleChoice(mask=mask_path)
    for side in (None, 40):
        list(predict(run, image, holes, tmp_path / "out.png", side))
        expected = load_inpainter(run, side)(values, mask > 0)
        np.testing.assert_array_equal(read(tmp_path / "out.png"), expected)


def test_a_folder_is_filled_and_failures_are_reported(run, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    good = [save(folder / name, pixels(seed=n)) for n, name in enumerate(("b.png", "z.png"))]
    save(folder / "a.tiff", np.dstack([pixels(), np.full((21, 30), 100, np.uint8)]))
    save(folder / "one.png", pixels(1, 1))
    (folder / "half.png").write_bytes(good[0].read_bytes()[:900])
    (folder / "text.jpg").write_text("no image")
    save(folder / "deep.png", np.zeros((21, 30), np.uint16))
    save(folder / "small.png", pixels(9, 9))
    frames = [Image.fromarray(pixels(seed=n)) for n in range(2)]
    for name in ("moving.gif", "moving.webp", "moved.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    (folder / ".hidden.png").write_text("left alone")
    save(folder / "deeper/inner.png")
    found = outcomes(run, folder, BOX, output)
    assert list(found) == sorted(found)
    assert {p.name for p in output.iterdir()} == {"b.png", "z.png"}
    for path in good:
        assert found.pop(path.name) == output / path.name
        expected = load_inpainter(run)(read(path), BOX.hole(path, (21, 30), True))
        np.testing.assert_array_equal(read(output / path.name), expected)
    messages = {name: str(error) for name, error in found.items()}
    assert all(str(folder / name) in message for name, message in messages.items())
    parts = {
        "a.tiff": "must be opaque, got transparent pixels",
        "deep.png": "must be grey, RGB, CMYK or paletted, with 8 bits a channel, got mode I;16",
        "half.png": "cannot be read: ",
        "moved.png": "must be a single picture",
        "moving.gif": "must be a single picture",
        "moving.webp": "must be a single picture",
        "one.png": "box must lie within the image, 1x1",
        "small.png": "box must lie within the image, 9x9",
        "text.jpg": "cannot be read: no picture",
    }
    assert parts.keys() == messages.keys()
    for name, part in parts.items():
        assert part in messages[name]


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (pixels(), np.zeros((21, 30), np.uint8), "has no hole"),
        (pixels(), np.full((21, 30), 255, np.uint8), "is all hole"),
        (pixels(), np.full((30, 21), 255, np.uint8), "must have the size of the image"),
        (pixels(), np.zeros((21, 30), np.uint16), "8 bits a channel"),
        (pixels(1, 1), np.full((1, 1), 255, np.uint8), "is all hole"),
    ],
)
def test_holes_that_cannot_be_used_are_reported(run, tmp_path, image, mask, message):
    folder = save(tmp_path / "in/a.png", image).parent
    holes = HoleChoice(mask=save(tmp_path / "mask.png", mask))
    ((_, error),) = predict(run, folder, holes, tmp_path / "out")
    assert isinstance(error, InputError)
    assert f"image {folder / 'a.png'}: mask {holes.mask} " in str(error)
    assert message in str(error)
    assert not (tmp_path / "out").exists()


def test_each_file_of_a_folder_has_its_own_brush_strokes(run, tmp_path):
    values = pixels(60, 60)
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, values)
    outcomes(run, tmp_path / "in", HoleChoice(brush_seed=3), tmp_path / "out")
    inpainter = load_inpainter(run)
    for name in ("a.png", "b.png"):
        expected = inpainter(values, hole_from_brush(3, (60, 60), name))
        np.testing.assert_array_equal(read(tmp_path / "out" / name), expected)
    outcomes(run, tmp_path / "in/a.png", HoleChoice(brush_seed=3), tmp_path / "a.png")
    np.testing.assert_array_equal(
        read(tmp_path / "a.png"), inpainter(values, hole_from_brush(3, (60, 60)))
    )


def test_no_input_is_overwritten(run, tmp_path):
    image, mask = save(tmp_path / "in/a.png"), np.zeros((21, 30), np.uint8)
    mask[5:9, 5:9] = 255
    mask_path = save(tmp_path / "mask.png", mask)
    holes = HoleChoice(mask=mask_path)
    (tmp_path / "link.png").symlink_to(image)
    before = image.read_bytes(), mask_path.read_bytes()
    for source, output in (
        (image, image),
        (image, mask_path),
        (image, tmp_path / "link.png"),
        (image.parent, image.parent),
    ):
        ((_, error),) = predict(run, source, holes, output)
        assert isinstance(error, InputError)
        assert "must not be an input file" in str(error)
    assert (image.read_bytes(), mask_path.read_bytes()) == before


def test_two_images_of_one_stem_do_not_share_an_output(run, tmp_path):
    first, second = save(tmp_path / "in/a.bmp"), save(tmp_path / "in/a.png", pixels(seed=1))
    found = outcomes(run, tmp_path / "in", BOX, tmp_path / "out")
    assert found[first.name] == tmp_path / "out/a.png"
    assert "must not be the output of an earlier image" in str(found[second.name])
    np.testing.assert_array_equal(read(tmp_path / "out/a.png")[:5], pixels()[:5])
    # A second call overwrites the output of the first.
    assert outcomes(run, second, BOX, tmp_path / "out/a.png")[second.name] == tmp_path / "out/a.png"


def test_an_output_that_cannot_be_written_does_not_stop_the_others(run, tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name)
    (tmp_path / "out/a.png").mkdir(parents=True)
    found = outcomes(run, tmp_path / "in", BOX, tmp_path / "out")
    assert "a.png cannot be written: " in str(found["a.png"])
    assert found["b.png"] == tmp_path / "out/b.png"


@pytest.mark.parametrize("name", ["out.jpg", "folder.png"])
def test_an_output_that_is_not_a_png_file_is_refused(run, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=rf"output.*{name}"):
        predict(run, save(tmp_path / "image.png"), BOX, tmp_path / name)


def test_folders_that_cannot_be_used_are_refused(run, tmp_path):
    image = save(tmp_path / "in/a.png")
    with pytest.raises(InputError, match=f"output.*{image}"):
        predict(run, image.parent, BOX, image)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path}/empty"):
        predict(run, tmp_path / "empty", BOX, tmp_path / "out")


def test_an_rgb_profile_is_kept_and_other_profiles_are_dropped(run, tmp_path):
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, profile in (("rgb", rgb), ("other", lab)):
        save(tmp_path / f"in/{name}.jpg", icc_profile=profile)
    results = predict(run, tmp_path / "in", BOX, tmp_path / "out")
    notes = {picture.stem: filled.note for picture, filled in results}
    assert notes["rgb"] is None
    assert "other.jpg is dropped: it is not for RGB" in notes["other"]
    with Image.open(tmp_path / "out/rgb.png") as image:
        assert image.info["icc_profile"] == rgb
    with Image.open(tmp_path / "out/other.png") as image:
        assert "icc_profile" not in image.info


def test_an_opaque_alpha_channel_is_ignored(tmp_path):
    opaque = np.dstack([pixels(), np.full((21, 30), 255, np.uint8)])
    np.testing.assert_array_equal(read_picture(save(tmp_path / "a.png", opaque)).pixels, pixels())


@pytest.mark.slow
def test_an_image_20000_pixels_wide(run, tmp_path):
    values = np.full((700, 20_000, 3), 90, np.uint8)
    image = save(tmp_path / "wide.png", values, compress_level=1)
    holes = HoleChoice(box=(9_000, 300, 1_500, 200))
    ((_, result),) = predict(run, image, holes, tmp_path / "out.png")
    filled = read(result.output).copy()
    assert (filled[300:500, 9_000:10_500] != 90).any()
    filled[300:500, 9_000:10_500] = 90
    np.testing.assert_array_equal(filled, values)


def test_the_command_prints_the_files_it_wrote_and_exits_with_2_if_some_failed(
    run, tmp_path, capsys
):
    good = save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no image")
    with pytest.raises(SystemExit) as ended:
        predict_command(tmp_path / "in", run, box=BOX.box)
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == f"{tmp_path}/in-filled/a.png\n"
    first, last = errors.splitlines()
    assert first.startswith(f"error: image {tmp_path}/in/b.png cannot be read")
    assert last == f"error: 1 of 2 images were not filled: {tmp_path}/in/b.png"
    predict_command(good, run, box=BOX.box)
    assert capsys.readouterr() == (f"{tmp_path}/in/a-filled.png\n", "")


def test_any_name_is_filled_and_shown_in_one_line(run, tmp_path, capsys):
    names = [b"a\xff.png", b"b\n\x1b[31m.png", "é[red].png".encode()]
    for name in names:
        save(tmp_path / "in" / os.fsdecode(name))
    (tmp_path / os.fsdecode(b"in/bad\xff.png")).write_bytes(b"")
    with pytest.raises(SystemExit):
        predict_command(tmp_path / "in", run, brush_seed=0)
    output, errors = capsys.readouterr()
    shown = [r"a\udcff.png", r"b\n\x1b[31m.png", "é[red].png"]
    assert output.splitlines() == [f"{tmp_path}/in-filled/{name}" for name in shown]
    first, last = errors.splitlines()
    assert first.startswith(rf"error: image {tmp_path}/in/bad\udcff.png cannot be read")
    assert last.endswith(rf": {tmp_path}/in/bad\udcff.png")
    assert sorted(os.listdir(os.fsencode(tmp_path / "in-filled"))) == names


@pytest.mark.parametrize("encoding", ["ascii", slow("latin-1"), slow("utf-8")])
def test_a_command_whose_output_cannot_encode_a_name(run, tmp_path, encoding):
    save(tmp_path / "日.png")
    command = ["predict", tmp_path / "日.png", "--run", run, "--brush-seed", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.inpainting", *command],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    shown = "日" if encoding == "utf-8" else r"\u65e5"
    assert done.stdout.decode() == f"{tmp_path}/{shown}-filled.png\n"


def test_a_profile_that_cannot_be_read_is_dropped_with_a_note(run, tmp_path):
    image = save(tmp_path / "a.png", icc_profile=b"x" * 200)
    encoded = image.read_bytes()
    start = encoded.index(b"iCCP")
    image.write_bytes(encoded[: start + 20] + b"??" + encoded[start + 22 :])
    ((_, filled),) = predict(run, image, BOX, tmp_path / "out.png")
    assert "a.png is dropped: it cannot be read" in filled.note


def test_a_terminal_shows_the_number_of_filled_images(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name)
    predict_command(tmp_path / "in", run, box=BOX.box)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_as_a_program(run, tmp_path):
    """Runs the command in a process, as a shell does."""
    program = (
        "from experiments.engine.command_line import run_command\n"
        "from experiments.inpainting.__main__ import predict\n"
        "run_command('inpainting', {'predict': predict, 'other': print})\n"
    )

    def call(*arguments):
        command = [sys.executable, "-c", program, "predict", *map(str, arguments), "--run", run]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    image = save(tmp_path / "image.png")
    done = call(image, "--box", 8, 5, 12, 7)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/image-filled.png\n"
    failed = call(tmp_path / "none.png", "--brush-seed", 1)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"error: image {tmp_path}/none.png cannot be read: ")
    assert failed.stderr.count("\n") == 1
    assert call(image).stderr == "error: expected one of mask, box and brush_seed, got none\n"
