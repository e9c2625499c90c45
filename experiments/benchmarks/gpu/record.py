"""Stores the results of a run: printed lines, ``results.json`` and ``log.txt``."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu.children import Finished, Step
from experiments.benchmarks.gpu.outcomes import FAILED, Outcome
from experiments.engine.json_files import write_json

MAX_LOG = 12 * 2**20  # bytes of the whole log


class Record:
    """Writes results to files that are valid at any time.

    Args:
        folder: folder for ``results.json`` and ``log.txt``, which is created.
        about: fields of ``results.json`` that describe the run.

    Raises:
        OSError: the files cannot be written.
    """

    def __init__(self, folder: Path, **about: Any) -> None:
        self.start = time.monotonic()
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self._path = folder / "results.json"
        self._values: dict[str, Any] = {
            **about,
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "ended": None,
            "machine": {},
            "steps": [],
            "conclusions": [],
            "not_run": [],
        }
        self.write()
        self._log = (folder / "log.txt").open("wb", buffering=0)

    def write(self) -> None:
        """Writes ``results.json``."""
        self._values["seconds"] = round(time.monotonic() - self.start, 1)
        write_json(self._path, self._values)

    def plan(self, steps: Sequence[Step]) -> None:
        """Lists steps as not run until they end."""
        names = [f"{step.phase}: {step.name}" for step in steps]
        self._values["not_run"] += [n for n in names if n not in self._values["not_run"]]
        self.write()

    def machine(self, values: Mapping[str, Any]) -> None:
        """Stores facts about GPU and versions."""
        self._values["machine"].update(values)
        self.write()

    def add(self, finished: Finished) -> None:
        """Stores a finished step and prints its line."""
        step, found = finished.step, finished.verdict
        self.outcomes[step.phase, step.name] = found.outcome
        line = f"{step.phase}: {step.name}"
        if found.outcome is not Outcome.NOT_RUN:
            if line in self._values["not_run"]:
                self._values["not_run"].remove(line)
            self._values["steps"].append({
                "phase": step.phase, "name": step.name, "outcome": str(found.outcome),
                "detail": found.detail, "seconds": round(finished.seconds, 1),
                "about": dict(step.about), "measured": list(found.measured),
            })  # fmt: skip
        self.write()
        shown = found.outcome.upper() if found.outcome in FAILED else str(found.outcome)
        self.say(f"{step.phase:<9} {step.name:<46} {shown:<13} {finished.seconds:5.1f} s  "
                 f"{found.detail}")  # fmt: skip
        if finished.log:
            self._append(f"\n===== {line}: {shown}, {found.detail}\n{finished.log}")

    def conclude(self, text: str) -> None:
        """Stores and prints a conclusion from several steps."""
        self._values["conclusions"].append(text)
        self.write()
        self.say(f"CONCLUSION {text}")

    def say(self, text: str) -> None:
        """Prints a line, without buffering, and appends it to the log."""
        text = f"[{time.monotonic() - self.start:5.0f}] {text}"
        print(text, flush=True)
        self._append(f"{text}\n")

    def _append(self, text: str) -> None:
        if self._log.tell() < MAX_LOG:
            self._log.write(text.encode(errors="replace"))

    def close(self, ended: str) -> int:
        """Prints a summary; returns the number of failed steps.

        Args:
            ended: description of how the run ended.
        """
        self._values["ended"] = ended
        self.write()
        counts = Counter(self.outcomes.values())
        summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        self.say(f"ended: {ended}; {summary}")
        self._log.close()
        return sum(count for outcome, count in counts.items() if outcome in FAILED)
