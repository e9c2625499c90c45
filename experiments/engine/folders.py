"""Where the commands of all tasks read and write."""

import dataclasses
import os
from pathlib import Path


def default_cache() -> Path:
    """Where files of fetched packages are kept: under ``$XDG_CACHE_HOME``, or else ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "carafe-jax" / "packages"


@dataclasses.dataclass(frozen=True)
class DataFolders:
    """Where the data lie.

    Attributes:
        data_dir: folder of the prepared data sets.
        cache: folder of the files of fetched packages, of which some data sets are composed.
    """

    data_dir: Path = Path("data")
    cache: Path = dataclasses.field(default_factory=default_cache)


@dataclasses.dataclass(frozen=True)
class Folders(DataFolders):
    """Where runs and data lie.

    Attributes:
        runs: folder of all runs, each in RUNS/TASK/PRESET-seedN, and of their tables, each in
            RUNS/TASK/TABLE.
    """

    runs: Path = Path("runs")
