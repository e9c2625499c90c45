"""Real photographs, to learn from and to measure with, where no data set is at hand."""

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
        name: Unique, and the same on every machine: `skimage-astronaut`.
        path: An image file that Pillow opens and converts to RGB.
        origin: The package and the file inside it: `scikit-image: skimage/data/astronaut.png`.
    """

    name: str
    path: Path
    origin: str


# Of the stereo pair of the motorcycle only one: the other view is all but the same photograph.
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
        Five of scikit-image, 300 to 512 pixels high, and two of scikit-learn. They are files of
        the wheels; nothing is downloaded.

    Raises:
        DataError: If one of the packages, or a file of theirs, is not installed.
    """
    return tuple(
        Photograph(name, _installed(package, module, file), f"{package}: {module}/{file}")
        for name, package, module, file in _PYPI_FILES
    )


def debian_photographs(cache: Path) -> tuple[Photograph, ...]:
    """Returns the larger set: the 64 photographs of Debian packages and the seven of PyPI.

    Every file is read once, to see that it is what was fetched.

    Args:
        cache: The folder that `python -m experiments.data.composed.debian` filled.

    Returns:
        71 photographs, those of `pypi_photographs` first. No two show the same scene.

    Raises:
        DataError: If a photograph is missing or damaged in `cache`, or one of
            `pypi_photographs` is.
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
