"""Photographs for training and evaluation without a downloaded dataset."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from experiments.data.composed.debian import is_complete
from experiments.data.composed.debian_manifest import PACKAGES
from experiments.data.errors import DataError


@dataclass(frozen=True)
class Photograph:
    """A photograph on disk.

    Attributes:
        name: unique name, the same on every machine: `skimage-astronaut`.
        path: path of an image that Pillow opens and converts to RGB.
        origin: package, and file inside it: `scikit-image: skimage/data/astronaut.png`.
    """

    name: str
    path: Path
    origin: str


# Only one image of the stereo pair of the motorcycle, because both are almost the same.
_PYPI_FILES = (
    ("skimage-astronaut", "scikit-image", "skimage", "data/astronaut.png"),
    ("skimage-chelsea", "scikit-image", "skimage", "data/chelsea.png"),
    ("skimage-coffee", "scikit-image", "skimage", "data/coffee.png"),
    ("skimage-motorcycle_left", "scikit-image", "skimage", "data/motorcycle_left.png"),
    ("skimage-rocket", "scikit-image", "skimage", "data/rocket.jpg"),
    ("sklearn-china", "scikit-learn", "sklearn", "datasets/images/china.jpg"),
    ("sklearn-flower", "scikit-learn", "sklearn", "datasets/images/flower.jpg"),
)


def pypi_photographs() -> tuple[Photograph, ...]:
    """Returns the seven colour photographs that scikit-image and scikit-learn install.

    Returns:
        Five from scikit-image, 300 to 512 pixels high, and two from scikit-learn. They are files of
        the wheels; nothing is downloaded.

    Raises:
        DataError: one of the packages, or one of its files, is not installed.
    """
    return tuple(
        Photograph(name, _installed(package, module, file), f"{package}: {module}/{file}")
        for name, package, module, file in _PYPI_FILES
    )


def debian_photographs(cache: Path) -> tuple[Photograph, ...]:
    """Returns the larger set: 64 photographs from Debian packages and seven from PyPI.

    Reads every file once, to check that it is undamaged.

    Args:
        cache: folder that `python -m experiments.data.composed.debian` filled.

    Returns:
        71 photographs, starting with the seven of `pypi_photographs`. No two show the same scene.

    Raises:
        DataError: a photograph is missing or damaged in `cache`, or one of `pypi_photographs` is
            missing.
    """
    if missing := [package.name for package in PACKAGES if not is_complete(cache, package)]:
        raise DataError(
            f"cache {cache} lacks photographs of {', '.join(missing)}: "
            f"run `python -m experiments.data.composed.debian --cache {cache}`"
        )
    return pypi_photographs() + tuple(
        Photograph(
            f"{package.name}-{Path(name).stem}",
            cache / package.name / name,
            f"{package.name}: {source}",
        )
        for package in PACKAGES
        for name, source in package.files.items()
    )


def _installed(package: str, module: str, file: str) -> Path:
    # find_spec, because importing scikit-image or scikit-learn takes a second.
    spec = find_spec(module)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder) / file).is_file():
            return path
    raise DataError(
        f"{module}/{file} is not installed: it comes with {package}, "
        f"`pip install --force-reinstall {package}`"
    )
