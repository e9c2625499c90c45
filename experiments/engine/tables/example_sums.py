"""Computes the sums of the examples of finished runs, and keeps them in the folders of the runs."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.engine.checkpoints import CHECKPOINTS, steps_in
from experiments.engine.distributed import all_agree, barrier, gather_bytes, is_primary
from experiments.engine.errors import UserError
from experiments.engine.files import write_atomically
from experiments.engine.folders import Folders
from experiments.engine.settings import RunConfig
from experiments.engine.tables.last_evaluation import (
    Metrics,
    last_evaluation_line,
    metrics_of_line,
)
from experiments.engine.tables.spec import TaskSpec
from experiments.engine.tables.statistics import ExampleSums, MetricsOfTotals

EXAMPLES = "examples.npz"

# Largest relative difference between the evaluations of a run on different devices.
_TOLERANCE = 0.02

# Exceptions that NumPy raises for missing, truncated or altered files.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

_EVALUATION, _RECORDS, _GROUPS, _KIND = "evaluation", "records", "groups", "kind"
_NOTE, _SUM = "note", "sum/"


def read_sums(folder: Path) -> ExampleSums | None:
    """Reads the sums of the final state of a run; None if they have not been written.

    Sums of another state are left out: the file holds the evaluation of its state, with the step.

    Args:
        folder: folder of the run.
    """
    try:
        with (
            (folder / EXAMPLES).open("rb") as stream,
            np.load(stream, allow_pickle=False) as file,
        ):
            if str(file[_EVALUATION]) != _key(last_evaluation_line(folder)):
                return None
            sums = {
                name.removeprefix(_SUM): file[name] for name in file.files if name.startswith(_SUM)
            }
            records, groups = file[_RECORDS].tolist(), file[_GROUPS].tolist()
            return ExampleSums(sums, records, groups, str(file[_KIND]), str(file[_NOTE]))
    except _DAMAGE:
        return None


def write_sums(folder: Path, found: ExampleSums, line: Mapping[str, Any]) -> None:
    """Writes the sums of a state of a run, atomically.

    Args:
        folder: folder of the run.
        found: sums of the state.
        line: line of the state's evaluation in the log. The log may have a later evaluation by now.
    """
    content: dict[str, Any] = {
        _EVALUATION: np.array(_key(line)),
        _RECORDS: np.array(list(found.records), np.int64),
        _GROUPS: np.array(list(found.groups)),
        _KIND: np.array(found.kind),
        _NOTE: np.array(found.note),
        **{f"{_SUM}{name}": array for name, array in found.sums.items()},
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    write_atomically(folder / EXAMPLES, lambda file: file.write(buffer.getvalue()))


def complete_sums[Config: RunConfig](
    spec: TaskSpec[Config], runs: Sequence[Path], folders: Folders
) -> dict[Path, str]:
    """Computes and writes the sums of the runs that have none. Every process must call this.

    Args:
        spec: spec of a task with ``examples``.
        runs: folders of finished runs. The list of the first process is used.
        folders: folders of runs and data.

    Returns:
        The reason for each run whose sums cannot be computed.
    """
    # Another command may have changed the table between the reads of two processes.
    first, *_ = gather_bytes(json.dumps([str(run) for run in runs]).encode())
    same = [Path(run) for run in json.loads(first)]
    return {run: reason for run in same if (reason := _complete(spec, run, folders))}


def _complete[Config: RunConfig](spec: TaskSpec[Config], run: Path, folders: Folders) -> str:
    assert spec.examples is not None
    if all_agree(read_sums(run) is not None):
        return ""
    # The line is read only once, by one process: another command may train the run further.
    read, *_ = gather_bytes(json.dumps(last_evaluation_line(run)).encode())
    line = json.loads(read)
    step = None if line is None else line["step"]
    if not all_agree(step in steps_in(run / CHECKPOINTS)):
        return "the checkpoint of its last evaluation is missing"
    try:
        loaded = spec.run_type.load(run)
        if not all_agree(loaded.step == step):
            return "the checkpoint of its last evaluation is damaged"
        if is_primary():
            print(f"{run.name}: evaluated again, for the metrics of each example", flush=True)
        found = spec.examples.sums(loaded, folders)
    except UserError as error:
        if jax.process_count() > 1:
            raise  # the other processes may be waiting for this one
        return str(error)
    if changed := _changed(spec.examples.metrics, found, metrics_of_line(line)):
        return f"evaluated again, it has other values of {', '.join(changed)}"
    if is_primary():
        write_sums(run, found, line)
    barrier(f"sums of {run.name}")
    return ""


def _changed(metrics: MetricsOfTotals, found: ExampleSums, logged: Metrics) -> list[str]:
    """Metrics that differ from the log by more than other devices explain: the images changed."""
    now = metrics({name: total[None] for name, total in found.totals.items()})
    return [
        name
        for name, values in now.items()
        if name in logged and not np.isclose(values[0], logged[name], rtol=_TOLERANCE)
    ]


def _key(line: Mapping[str, Any] | None) -> str:
    return json.dumps(line)
