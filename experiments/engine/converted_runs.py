"""Runs whose checkpoint of step 0 holds weights of another library."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, Checkpoints
from experiments.engine.claim import CONFIG, CONVERTED, check_name
from experiments.engine.json_files import read_json, write_json
from experiments.engine.settings import RunConfig
from experiments.engine.step import State, first_carry

# The arrays that are needed, beside the checkpoint, to write the same file of weights again.
REST = "rest.safetensors"
# The dtypes that the NumPy interface of safetensors writes and reads.
_PLAIN = [
    *map(np.dtype, ("bool", "float16", "float32", "float64", "complex64")),
    *(np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)),
]


def check_output(output: Path) -> None:
    """Checks that a run can be written to a folder, before any work.

    Args:
        output: folder of the run.

    Raises:
        ConfigError: ``output`` is neither new nor an empty folder, or has a name that Orbax does
            not support.
    """
    free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    configs.check(free, "output", "a new or an empty folder", str(output))
    check_name(output)


def with_drawn(loaded: Any, draw: Callable[[], Any]) -> Any:
    """Draws the variables that no file provided.

    Args:
        loaded: variables of a model; a variable that no file provided is a
            ``jax.ShapeDtypeStruct``.
        draw: function that draws all variables of the model; called only if it is needed.

    Returns:
        Complete variables with the structure of ``loaded``.
    """
    if not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(loaded)):
        return loaded
    return jax.tree.map(
        lambda leaf, drawn: drawn if isinstance(leaf, jax.ShapeDtypeStruct) else leaf,
        loaded,
        draw(),
    )


def write_converted_run(
    output: Path,
    config: RunConfig,
    state: State,
    weights: Sequence[Path],
    library: str,
    files: Mapping[str, Any],
    rest: Mapping[str, np.ndarray],
    kept: Sequence[str] = (),
) -> None:
    """Writes a run that can be evaluated, used for predictions, and trained further.

    Args:
        output: folder of the run; it must be new or empty.
        config: config of the run.
        state: state of the run at step 0.
        weights: files of the weights.
        library: library that wrote the files, or the name of its format.
        files: contents of further files of the run, by file name; they are saved as JSON.
        rest: arrays, by name, that are needed to write the same files again, because ``state`` does
            not hold their values or their precision; see :func:`read_rest`.
        kept: parts of the network that have their own initial values.

    Raises:
        CheckpointError: the checkpoint cannot be written.
        ConfigError: ``output`` is not empty, cannot be created or written to, or has a name that
            Orbax does not support.
    """
    check_output(output)
    source = {"weights": [path.name for path in weights], "format": library, "kept": [*kept]}
    carry = first_carry(state, config.training.seed)
    with _completed_folder(output) as folder:
        for name, content in files.items():
            write_json(folder / name, content)
        checkpoints = Checkpoints(folder / CHECKPOINTS)
        time_spent = {"seconds": 0.0, "seconds_waiting": 0.0}
        checkpoints.save(0, jax.device_get(carry), None, time_spent)
        checkpoints.close()
        if rest:
            # Not `save_file`: it makes files that no other user can read.
            (folder / REST).write_bytes(_encoded(rest))
        write_json(folder / CONVERTED, source)
        configs.save(config, folder / CONFIG)


def origin(run: Path) -> str | None:
    """The format of the weights from which a run was converted.

    Args:
        run: folder of a run.

    Returns:
        The format; ``None`` for a run that was not converted.

    Raises:
        CheckpointError: the file that names the format cannot be read.
    """
    path = run / CONVERTED
    if not path.exists():
        return None
    try:
        return str(read_json(path)["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_rest(run: Path, *formats: str) -> dict[str, np.ndarray]:
    """The arrays that are needed, beside a checkpoint, to write the same file of weights again.

    They complete a file of the format from which the run was converted. A file of another format
    does not have them.

    Args:
        run: folder of a run.
        *formats: names of the format of the new file.

    Returns:
        The arrays by name in the file; none if the run has none, or was not converted from one of
        ``formats``.

    Raises:
        CheckpointError: the file of these arrays, or the file that names their format, cannot be
            read.
    """
    path = run / REST
    if origin(run) not in formats or not path.exists():
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            names, dtypes = file.keys(), file.metadata() or {}
            return {name: _decoded(file.get_tensor(name), dtypes.get(name)) for name in names}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _encoded(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file of safetensors with arrays of any dtype.

    safetensors has no complex128, and its NumPy interface does not read bfloat16. Arrays of dtypes
    such as these are stored as bytes, and the metadata hold the names of their dtypes.
    """
    tensors, dtypes = {}, {}
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("=")
        tensors[name] = np.array(array, dtype, order="C")  # safetensors ignores strides
        if dtype not in _PLAIN:
            dtypes[name] = dtype.name
            tensors[name] = tensors[name][..., np.newaxis].view(np.uint8)
    return save(tensors, dtypes)


def _decoded(array: np.ndarray, dtype: str | None) -> np.ndarray:
    return array if dtype is None else array.view(np.dtype(dtype))[..., 0]


@contextlib.contextmanager
def _completed_folder(output: Path) -> Iterator[Path]:
    """Yields a folder that becomes ``output`` at the end; a killed process leaves no ``output``."""
    # A folder can replace the target of a link, but not the link. `Path.resolve` would raise an
    # error of its own for links in a loop.
    target = Path(os.path.realpath(output))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as temporary:
            folder = Path(temporary) / target.name
            folder.mkdir()
            yield folder
            folder.rename(target)
    except OSError as error:
        expected = "a folder that can be created and written to"
        raise configs.ConfigError(
            f"output must be {expected}, got {output}: {error.strerror or error}"
        ) from error
