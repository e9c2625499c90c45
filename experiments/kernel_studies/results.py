"""The folder of a study: it holds the results of one study of the same network."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.engine.config import check
from experiments.engine.files import locked
from experiments.engine.json_files import read_json, write_json
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.results import RESULTS, TABLE
from experiments.engine.tables.table import Table, print_tables, save_tables
from experiments.engine.text import encodable, printable


def name_of(runs: Sequence[Path]) -> str:
    """Returns the name of the folders of runs without ``-seedN``; different names are joined.

    Args:
        runs: folders of the runs.
    """
    names = (re.sub(r"-seed\d+$", "", run.resolve().name) for run in runs)
    return "-".join(dict.fromkeys(names))


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """The folder to which a study writes its results.

    Attributes:
        path: path of the folder.
        study: name of the study.
        runs: folders of the runs.
        split: split of the dataset to which the images belong.
    """

    path: Path
    study: str
    runs: Sequence[Path]
    split: str

    @property
    def key(self) -> dict[str, str]:
        """What distinguishes the results from results that they must not replace."""
        return {"study": self.study, "name": encodable(name_of(self.runs)), "split": self.split}

    def check(self) -> None:
        """Creates the folder, and checks that it has no results of another study.

        Raises:
            FolderError: the folder cannot be created or written to.
            ConfigError: the folder has other results.
        """
        with locked(self.path):
            self._check_results()

    def write(
        self,
        results: Mapping[str, Any],
        evaluation: EvaluationConfig,
        tables: Sequence[Table],
        notes: Sequence[str],
    ) -> None:
        """Writes ``results.json`` and ``table.md``, and prints the tables.

        Args:
            results: results for the JSON file.
            evaluation: settings of the evaluation; results of shuffled kernels depend on them.
            tables: tables of the results.
            notes: lines of text below the tables.

        Raises:
            FolderError: the folder cannot be created or written to.
            ConfigError: the folder has other results by now.
        """
        settings = {
            "checkpoint": evaluation.checkpoint,
            "batch_size": evaluation.batch_size,
            "devices": jax.local_device_count(),
        }
        with locked(self.path):
            self._check_results()
            write_json(self.path / RESULTS, {**self.key, "evaluation": settings, **results})
            save_tables(self.path / TABLE, tables, notes)
        print_tables(tables, [*notes, f"results in {printable(self.path)}"])

    def _check_results(self) -> None:
        path = self.path / RESULTS
        if not path.exists():
            return
        try:
            results = read_json(path)
            found = {name: results[name] for name in self.key}
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        expected = f"a folder without other results than of {_text(self.key)}"
        got = "other results" if found is None else f"results of {_text(found)}"
        check(found == self.key, "output", expected, f"{self.path} with {got}")


def _text(key: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in key.items())
