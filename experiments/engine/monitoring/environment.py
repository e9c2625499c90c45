"""The environment of a run: versions, revision and devices, one line for each start."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("carafe-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def append_environment(path: Path, **more: Any) -> None:
    """Appends one JSON object with the command, versions and devices of this process.

    Args:
        path: path of the file, with one object in each line.
        more: further entries that JSON can store.
    """
    devices = jax.devices()
    entry = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git": _git_revision(),
        "python": platform.python_version(),
        "machine": f"{platform.node()} {platform.platform()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "processes": jax.process_count(),
        "devices": [f"{device.id}: {device.device_kind}" for device in devices],
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Returns the commit of the checkout, with ``+changes`` if files were changed since."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # git or a checkout is missing
