"""Fetches photographs from Debian packages: `python -m experiments.data.composed.debian`.

With `--cutouts` it also fetches the cutouts for `experiments.data.composed.cutouts`.

Nothing is installed, and root is not needed: each package is downloaded and unpacked in a temporary
folder, and one file for each photograph is copied, unchanged, to `<cache>/<package>/`. The
`index.json` of a package is written last, so a folder with a matching index is complete, and an
interrupted build can be continued. The licences differ between packages (CC0, CC-BY, CC-BY-SA,
GPL), which is why the photographs are fetched and not part of the repository.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from experiments.data.composed.cutouts_manifest import CUTOUTS
from experiments.data.composed.debian_manifest import PACKAGES, Package
from experiments.engine.command_line import run_program
from experiments.engine.files import locked
from experiments.engine.folders import default_cache
from experiments.engine.json_files import read_json
from experiments.engine.text import printable

_POLL_SECONDS = 0.2
_HINTS = {
    "apt-cache": " (`apt-get update` fetches the package lists, and needs root)",
    "apt-get": " (is there a network, and are the package lists fresh?)",
}


class FetchError(RuntimeError):
    """The files of a package could not be fetched."""


def is_complete(cache: Path, package: Package) -> bool:
    """Whether all files of a package exist and are undamaged.

    Args:
        cache: folder that `build_debian` filled.
        package: package whose files are checked.

    Returns:
        True if the index of the package lists exactly the files that `package` names, and each file
        has the size and the SHA256 in the index.
    """
    folder = cache / package.name
    try:
        files = read_json(folder / "index.json")["files"]
        return files.keys() == package.files.keys() and all(
            (folder / name).stat().st_size == entry["size"]
            and _sha256(folder / name) == entry["sha256"]
            for name, entry in files.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # Missing or damaged: in every case the package must be fetched.
        return False


def build_debian(cache: Path, packages: Sequence[Package] = PACKAGES) -> dict[str, str]:
    """Fetches the files of `packages` into `cache`, except files that are already there.

    Args:
        cache: folder of the files; it is created. Only one build can run in it at a time.
        packages: packages to fetch.

    Returns:
        An error message by the name of each package that failed; empty if all files are there. A
        failure does not stop the other packages.

    Raises:
        FolderError: `cache` cannot be written to, or another process builds in it.
    """
    failures: dict[str, str] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    # The scratch folder has a fixed name, so that a run deletes what a killed run left in it; the
    # lock prevents it from deleting the folder of an active run.
    with locked(cache, wait=False), Progress(*columns, console=Console(stderr=True)) as progress:
        for package in packages:
            task = progress.add_task(package.name, total=None, state="verifying")
            try:
                _build(cache, package, partial(progress.update, task))
            except FetchError as error:
                failures[package.name] = str(error)
                progress.update(task, state="failed")
            except OSError as error:  # for example a full disk or a read-only folder
                failures[package.name] = f"{package.name}: {error}"
                progress.update(task, state="failed")
            progress.stop_task(task)
    return failures


@dataclass(frozen=True)
class _Release:
    """The version of a package that apt would install."""

    version: str
    size: int
    sha256: str


class _Report(Protocol):
    def __call__(
        self, *, state: str = ..., completed: float | None = ..., total: float | None = ...
    ) -> None: ...


def _build(cache: Path, package: Package, report: _Report) -> None:
    archive = cache / f"{package.name}.deb"
    with _scratch(cache) as scratch:
        if is_complete(cache, package):
            report(state="kept", completed=1, total=1)
        else:
            release = _release(package)
            report(state="fetching", completed=0, total=release.size)
            if not archive.is_file() or _sha256(archive) != release.sha256:
                _download(package, release, scratch, report).replace(archive)
            report(state="extracting", completed=release.size)
            _run(package, ["dpkg-deb", "-x", str(archive), str(scratch / "extracted")])
            _keep(cache / package.name, package, release, scratch)
            report(state="fetched")
        archive.unlink(missing_ok=True)


def _release(package: Package) -> _Release:
    shown = _run(package, ["apt-cache", "show", "--no-all-versions", package.name])
    fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    try:
        return _Release(fields["Version"], int(fields["Size"]), fields["SHA256"])
    except (KeyError, ValueError) as error:
        raise FetchError(
            f"{package.name}: expected Version, Size and SHA256 of `apt-cache show`, "
            f"got {sorted(fields)}"
        ) from error


def _download(package: Package, release: _Release, scratch: Path, report: _Report) -> Path:
    folder = scratch / "download"
    folder.mkdir()

    def poll() -> None:
        report(completed=sum(path.stat().st_size for path in folder.glob("*.deb")))

    _run(package, ["apt-get", "download", f"{package.name}={release.version}"], folder, poll)
    archives = list(folder.glob("*.deb"))
    if len(archives) != 1:
        raise FetchError(f"{package.name}: apt-get download left {len(archives)} files, expected 1")
    if (got := _sha256(archives[0])) != release.sha256:
        raise FetchError(
            f"{package.name}: expected SHA256 {release.sha256} and {release.size} bytes, "
            f"downloaded {got} and {archives[0].stat().st_size} bytes"
        )
    return archives[0]


def _keep(folder: Path, package: Package, release: _Release, scratch: Path) -> None:
    folder.mkdir(exist_ok=True)
    entries = {}
    for name, source in package.files.items():
        extracted = scratch / "extracted" / source
        if not extracted.is_file():
            raise FetchError(f"{package.name}: version {release.version} does not ship /{source}")
        _check_decodes(package, extracted, source)
        copy = scratch / name
        shutil.copyfile(extracted, copy)
        entries[name] = {
            "size": copy.stat().st_size,
            "sha256": _sha256(copy),
            "source": source,
        }
        copy.replace(folder / name)
    index = {"version": release.version, "deb_sha256": release.sha256, "files": entries}
    written = scratch / "index.json"
    written.write_text(json.dumps(index, indent=2) + "\n")
    written.replace(folder / "index.json")


def _check_decodes(package: Package, path: Path, source: str) -> None:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow: SyntaxError for a broken PNG
        raise FetchError(f"{package.name}: /{source} does not decode: {error}") from error


def _run(
    package: Package,
    command: list[str],
    folder: Path | None = None,
    poll: Callable[[], None] = lambda: None,
) -> str:
    try:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise FetchError(
            f"{package.name}: {command[0]} is not on PATH: Debian or a derived system is needed"
        ) from error
    with process:
        try:
            while True:
                try:
                    output, complaint = process.communicate(timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    poll()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        # apt always warns root that it downloads outside its sandbox.
        errors = [line for line in complaint.splitlines() if not line.startswith("W: ")]
        raise FetchError(
            f"{package.name}: `{' '.join(command)}` failed with status {process.returncode}: "
            f"{' '.join(errors) or 'no message'}"
            f"{_HINTS.get(command[0], '')}"
        )
    return output


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    folder = cache / ".partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


DEFAULT_CACHE = default_cache()


def main(cache: Path = DEFAULT_CACHE, cutouts: bool = False) -> None:
    """Fetches photographs from Debian packages (about 290 MB, of which some 50 MB are kept).

    Args:
        cache: Folder of the photographs; complete packages in it are not fetched again.
        cutouts: Fetch cutouts of objects too (161 MB, of which 10 MB are kept).
    """
    packages = (*PACKAGES, CUTOUTS) if cutouts else PACKAGES
    failures = build_debian(cache, packages)
    for message in failures.values():
        print(f"error: {printable(message)}", file=sys.stderr)
    if failures:
        sys.exit(2)
    fetched = f"{sum(len(package.files) for package in PACKAGES)} photographs"
    if cutouts:
        fetched += f" and {len(CUTOUTS.files)} cutouts"
    print(f"{fetched} in {printable(cache)}")


if __name__ == "__main__":
    run_program(main)
