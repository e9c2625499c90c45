"""Folders from which the commands of all tasks read, and to which they write."""

import dataclasses
import os
from pathlib import Path


def default_cache() -> Path:
    """Returns the default folder of fetched files, in ``$XDG_CACHE_HOME`` or else ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "carafe-jax" / "packages"


@dataclasses.dataclass(frozen=True)
class DataFolders:
    """Folders of data.

    Attributes:
        data_dir: folder of the prepared datasets.
        cache: folder of the files fetched from packages, from which some datasets are composed.
    """

    data_dir: Path = Path("data")
    cache: Path = dataclasses.field(default_factory=default_cache)


@dataclasses.dataclass(frozen=True)
class Folders(DataFolders):
    """Folders of runs and data.

    Attributes:
        runs: folder of all runs and tables; a run is in RUNS/TASK/PRESET-seedN, a table in
            RUNS/TASK/TABLE.
    """

    runs: Path = Path("runs")
