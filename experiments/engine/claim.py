"""A command claims the folder of a run before it trains: one config, and one command at a time."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, steps_in
from experiments.engine.distributed import all_agree, barrier, is_primary
from experiments.engine.files import locked
from experiments.engine.json_files import write_json
from experiments.engine.text import encodable

CONFIG = "config.json"
# Written when the last step has been evaluated.
FINISHED = "finished.json"
# Names the source of the weights of step 0, if they were not drawn with the seed of the config.
CONVERTED = "converted.json"


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run that was started or converted."""
    return (folder / CONFIG).exists()


def has_checkpoints(folder: Path) -> bool:
    """Whether the run in ``folder`` continues from a checkpoint."""
    return bool(steps_in(folder / CHECKPOINTS))


def is_converted(folder: Path) -> bool:
    """Whether the run in ``folder`` started from weights of another library."""
    return (folder / CONVERTED).exists()


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has been trained to the end."""
    return (folder / FINISHED).exists()


def check_name(folder: Path) -> None:
    """Raises ``ConfigError`` if Orbax cannot save checkpoints in a folder of this name."""
    absolute = str(folder.absolute())
    configs.check(encodable(absolute) == absolute, "the folder", "named in UTF-8", absolute)


@contextlib.contextmanager
def claimed(folder: Path, config: Any, files: Mapping[str, Any]) -> Iterator[None]:
    """Makes ``folder`` the folder of a run with ``config``, and excludes other commands from it.

    Every process of the run must call this. The claim ends with the process that holds it, even if
    the process is killed.

    Args:
        folder: folder of the run; it is created.
        config: config of the run, a frozen dataclass.
        files: contents of further files, by file name; they are saved as JSON.

    Raises:
        ConfigError: ``folder`` holds a run with another config, or checkpoints without a config;
            is not visible to all processes; or has a name that Orbax does not support.
        FolderError: ``folder`` cannot be written to, or another command trains in it.
    """
    check_name(folder)
    with contextlib.ExitStack() as stack:
        if is_primary():
            stack.enter_context(locked(folder, wait=False))
            if not is_run(folder):
                expected = f"without checkpoints where {CONFIG} is missing"
                configs.check(not has_checkpoints(folder), "the folder", expected, str(folder))
                configs.save(config, folder / CONFIG)
        _check_config(folder, config)
        if is_primary():
            for name, content in files.items():
                write_json(folder / name, content)
        yield


def _check_config(folder: Path, config: Any) -> None:
    barrier("config saved")
    path = folder / CONFIG
    configs.check(path.exists(), "the folder", "visible to all processes", str(folder))
    changed = configs.differences(configs.load(type(config), path), config)
    agreed = all_agree(not changed)
    if changed:
        raise configs.ConfigError(
            f"{folder} holds a run with another config ({'; '.join(changed)}): "
            "choose another folder, or remove this one"
        )
    if not agreed:
        raise configs.ConfigError(f"another process was started with another config than {path}")
