"""Runs the real code, with dpkg-deb, on tiny packages that a fake apt serves."""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from experiments.data.composed import debian
from experiments.data.composed.cutouts import fetched_cutouts
from experiments.data.composed.cutouts_manifest import CUTOUTS
from experiments.data.composed.debian import (
    PACKAGES,
    Package,
    build_debian,
    is_complete,
)
from experiments.data.composed.photographs import debian_photographs, pypi_photographs
from experiments.data.errors import DataError
from experiments.engine.files import FolderError

DPKG_DEB = shutil.which("dpkg-deb")
NAMES = [package.name for package in PACKAGES]

APT_CACHE = """#!/bin/sh
cat "$REPOSITORY/$3.show" || {
    echo "W: of no interest" >&2
    echo "E: No packages found" >&2
    exit 100
}
"""
# A hanging download leaves a partial file, as a slow network does.
APT_GET = """#!/bin/sh
name=${2%%=*}
echo "$name" >> "$REPOSITORY/downloads"
if [ -e "$REPOSITORY/hang-apt-get-$name" ]; then
    head -c 99 "$REPOSITORY/$name.deb" > "${name}_1.0_all.deb"
    touch "$REPOSITORY/hanging"
    exec sleep 60
fi
cp "$REPOSITORY/$name.deb" "${name}_1.0_all.deb"
"""
DPKG_DEB_OR_HANG = """#!/bin/sh
if [ -e "$REPOSITORY/hang-dpkg-deb-$(basename "$2" .deb)" ]; then
    touch "$REPOSITORY/hanging"
    exec sleep 60
fi
exec {dpkg_deb} "$@"
"""


def pack(repository: Path, name: str, files: dict[str, Callable[[Path], object]]) -> None:
    """Adds a package to `repository`; `files` maps paths inside it to functions that write them."""
    root = repository / f"{name}-root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: photographs\n"
    )
    for path, write in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write(root / path)
    archive = repository / f"{name}.deb"
    assert DPKG_DEB is not None
    build = [DPKG_DEB, "--root-owner-group", "-Znone", "--build", str(root), str(archive)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    content = archive.read_bytes()
    (repository / f"{name}.show").write_text(
        f"Package: {name}\nVersion: 1.0\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\nDescription: photographs\n"
        " Note: of many things\n"
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages of the manifest, with a small piece of a photograph for each file."""
    if DPKG_DEB is None:
        pytest.skip("dpkg-deb is not on PATH")
    folder = tmp_path_factory.mktemp("packed")
    with Image.open(pypi_photographs()[0].path) as image:
        pieces = (
            image.crop((x, y, x + 48, y + 32)) for y in range(0, 480, 32) for x in range(0, 432, 48)
        )
        for package in PACKAGES:
            pack(folder, package.name, {path: next(pieces).save for path in package.files.values()})
    return folder


@pytest.fixture
def repository(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `packed` that a test may change, with a fake apt that serves it."""
    folder = tmp_path / "repository"
    shutil.copytree(packed, folder)
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {
        "apt-cache": APT_CACHE,
        "apt-get": APT_GET,
        "dpkg-deb": DPKG_DEB_OR_HANG.format(dpkg_deb=DPKG_DEB),
    }
    for name, script in scripts.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("REPOSITORY", str(folder))
    return folder


def downloads(repository: Path) -> list[str]:
    return (repository / "downloads").read_text().split()


def leftovers(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - set(NAMES) - {".lock"}


def test_the_manifest_has_64_photographs_with_unique_names() -> None:
    names = {f"{package.name}/{Path(name).stem}" for package in PACKAGES for name in package.files}
    sources = [source for package in PACKAGES for source in package.files.values()]
    assert len(names) == len(sources) == 64
    assert not any(source.startswith("/") or ".." in source for source in sources)


def test_a_build_is_complete_and_leaves_no_other_files(repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    assert build_debian(cache) == {}
    assert downloads(repository) == NAMES
    assert leftovers(cache) == set()
    photographs = debian_photographs(cache)
    assert len({photograph.name for photograph in photographs}) == len(photographs) == 71
    assert len({photograph.path.read_bytes() for photograph in photographs}) == 71
    assert photographs[:7] == pypi_photographs()
    aqua = next(each for each in photographs if each.name == "mate-backgrounds-Aqua")
    assert aqua.path == cache / "mate-backgrounds" / "Aqua.jpg"
    assert aqua.origin == "mate-backgrounds: usr/share/backgrounds/mate/nature/Aqua.jpg"
    for photograph in photographs[7:]:
        with Image.open(photograph.path) as image:
            assert image.convert("RGB").size == (48, 32)


def test_the_files_keep_their_encoding(repository: Path, tmp_path: Path) -> None:
    source = pypi_photographs()[1].path
    pack(repository, "cats", {"usr/share/cat.png": lambda path: shutil.copyfile(source, path)})
    assert build_debian(tmp_path / "cache", [Package("cats", {"c.png": "usr/share/cat.png"})]) == {}
    assert (tmp_path / "cache" / "cats" / "c.png").read_bytes() == source.read_bytes()


def test_complete_packages_are_not_fetched_again(repository: Path, tmp_path: Path) -> None:
    build_debian(tmp_path / "cache", PACKAGES[:2])
    assert build_debian(tmp_path / "cache", PACKAGES[:3]) == {}
    assert downloads(repository) == NAMES[:3]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("Aqua.jpg", flip_a_byte),
        ("Aqua.jpg", lambda path: os.truncate(path, 99)),
        ("Aqua.jpg", Path.unlink),
        ("index.json", Path.unlink),
        ("index.json", lambda path: os.truncate(path, 99)),
        ("index.json", lambda path: path.write_text('{"files": {"Aqua.jpg": 3}}')),
        ("index.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_packages_are_fetched_again(
    repository: Path, tmp_path: Path, file: str, damage: Callable[[Path], object]
) -> None:
    cache, packages = tmp_path / "cache", PACKAGES[2:4]
    build_debian(cache, packages)
    whole = (cache / "mate-backgrounds" / "Aqua.jpg").read_bytes()
    damage(cache / "mate-backgrounds" / file)
    assert not is_complete(cache, PACKAGES[3])
    with pytest.raises(DataError, match="mate-backgrounds"):
        debian_photographs(cache)
    assert build_debian(cache, packages) == {}
    assert (cache / "mate-backgrounds" / "Aqua.jpg").read_bytes() == whole
    assert downloads(repository) == ["lxqt-themes", "mate-backgrounds", "mate-backgrounds"]


def test_a_changed_manifest_is_fetched_again(repository: Path, tmp_path: Path) -> None:
    name, files = PACKAGES[3].name, PACKAGES[3].files
    build_debian(tmp_path, [Package(name, {"Aqua.jpg": files["Aqua.jpg"]})])
    assert not is_complete(tmp_path, PACKAGES[3])
    assert build_debian(tmp_path, [PACKAGES[3]]) == {}
    assert is_complete(tmp_path, PACKAGES[3])


def test_a_truncated_download_is_noticed(repository: Path, tmp_path: Path) -> None:
    archive = repository / f"{NAMES[0]}.deb"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-99])
    failures = build_debian(tmp_path / "cache", PACKAGES[:2])
    assert list(failures) == [NAMES[0]]
    assert hashlib.sha256(whole).hexdigest() in failures[NAMES[0]]
    assert f"{len(whole)} bytes" in failures[NAMES[0]]
    assert is_complete(tmp_path / "cache", PACKAGES[1])
    assert leftovers(tmp_path / "cache") == set()
    archive.write_bytes(whole)
    assert build_debian(tmp_path / "cache", PACKAGES[:2]) == {}


def test_a_missing_package_exits_with_2_after_the_others_are_fetched(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "lxqt-themes.show").unlink()
    with pytest.raises(SystemExit) as exit_:
        debian.main(tmp_path / "cache")
    assert exit_.value.code == 2
    complaint = capsys.readouterr().err
    assert "error: lxqt-themes: `apt-cache show" in complaint
    assert "No packages found" in complaint
    assert "of no interest" not in complaint
    assert [is_complete(tmp_path / "cache", each) for each in PACKAGES] == [
        name != "lxqt-themes" for name in NAMES
    ]


@pytest.mark.parametrize(
    ("path", "write", "complaint"),
    [
        ("usr/other.png", lambda path: path.write_text("text"), "does not ship /usr/photo.png"),
        ("usr/photo.png", lambda path: path.write_text("text"), "/usr/photo.png does not decode"),
        (
            "usr/photo.png",
            lambda path: path.write_bytes(pypi_photographs()[0].path.read_bytes()[:-9999]),
            "/usr/photo.png does not decode",
        ),
    ],
)
def test_a_file_that_is_not_a_photograph_is_named(
    repository: Path,
    tmp_path: Path,
    path: str,
    write: Callable[[Path], object],
    complaint: str,
) -> None:
    pack(repository, "odd", {path: write})
    odd = Package("odd", {"photo.png": "usr/photo.png"})
    failures = build_debian(tmp_path / "cache", [odd, PACKAGES[0]])
    assert list(failures) == ["odd"]
    assert complaint in failures["odd"]
    assert not is_complete(tmp_path / "cache", odd)


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        # A partial download is deleted; a complete one is not fetched again.
        ("apt-get", [NAMES[0], NAMES[1], NAMES[1], NAMES[2]]),
        ("dpkg-deb", [NAMES[0], NAMES[1], NAMES[2]]),
    ],
)
def test_a_killed_build_can_be_continued(
    repository: Path, tmp_path: Path, tool: str, expected: list[str]
) -> None:
    cache, hang = tmp_path / "cache", repository / f"hang-{tool}-{NAMES[1]}"
    hang.touch()
    program = (
        "import sys, pathlib; from experiments.data.composed import debian; "
        "debian.build_debian(pathlib.Path(sys.argv[1]), debian.PACKAGES[:3])"
    )
    build = subprocess.Popen(
        [sys.executable, "-c", program, str(cache)],
        cwd=Path(debian.__file__).parents[3],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (repository / "hanging").exists():
            assert build.poll() is None, "ended before the hang"
            assert time.monotonic() < deadline, "never came to the hang"
            time.sleep(0.02)
    finally:
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
    hang.unlink()
    assert [is_complete(cache, each) for each in PACKAGES[:3]] == [True, False, False]
    assert build_debian(cache, PACKAGES[:3]) == {}
    assert downloads(repository) == expected
    assert leftovers(cache) == set()


def test_cutouts_are_fetched_on_request(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Some cutouts of the package have such palettes, about which convert("RGB") warns.
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.info["transparency"] = b"\x40\x80"
    pack(repository, CUTOUTS.name, dict.fromkeys(CUTOUTS.files.values(), palette.save))
    cache = tmp_path / "cache"
    debian.main(cache)
    assert CUTOUTS.name not in downloads(repository)
    assert "64 photographs in" in capsys.readouterr().out
    debian.main(cache, cutouts=True)
    assert downloads(repository) == [*NAMES, CUTOUTS.name]
    assert "64 photographs and 237 cutouts in" in capsys.readouterr().out
    cutouts = fetched_cutouts(cache)
    assert len({cutout.path for cutout in cutouts}) == 237
    assert all(cutout.path.is_file() for cutout in cutouts)


def test_two_builds_in_one_cache_are_refused(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FolderError, match=f"folder.*{tmp_path}"):
            build_debian(tmp_path)


def test_without_apt_every_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    failures = build_debian(tmp_path / "cache")
    assert list(failures) == NAMES
    for name, message in failures.items():
        assert message.startswith(f"{name}: apt-cache is not on PATH")
