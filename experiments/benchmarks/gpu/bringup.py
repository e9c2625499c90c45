"""Checks and times the GPU kernels on a GPU, within a given time.

    export PYTHONPATH=.:kernels
    python3 -m experiments.benchmarks.gpu.bringup --out runs/gpu --budget 560

The run has these phases:

- *card*: describes the GPU and measures its memory bandwidth;
- *smoke*: checks every single kernel at a small shape, in memory filled with NaN;
- *switches*: runs the kernels that failed again, with one setting changed, to separate errors in
  barriers, buffers and bounds;
- *right*: checks real shapes against float64;
- *fast*: compares times with XLA, PyTorch and other layers that rescale;
- *why*: reads counters of the profiler.

Every step is a child process with a time limit, so a step that hangs or crashes does not end the
run. A line is printed when a step ends. The output folder has ``log.txt`` and ``results.json``,
which is valid at any time; ``python -m experiments.benchmarks.gpu.tables`` prints its tables. The
program needs only JAX, Flax, NumPy and jaxtyping. It uses PyTorch, ncu and compute-sanitizer if
they are installed.

Exit codes: 0 if every check ran and nothing failed, though times may be missing; 1 if anything
failed, or a step of *smoke* or *right* did not finish; 2 for bad arguments or without a GPU that
the kernels support; 128 and more after a signal.
"""

import argparse
import math
import os
import secrets
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from experiments.benchmarks.gpu import plan
from experiments.benchmarks.gpu.broken import Broken
from experiments.benchmarks.gpu.children import Finished, Step, run_steps
from experiments.benchmarks.gpu.outcomes import FAILED, UNFINISHED, Outcome
from experiments.benchmarks.gpu.plan import Plan
from experiments.benchmarks.gpu.record import Record
from experiments.benchmarks.gpu.switches import MAX_KERNELS, SWITCHES, conclusion

ROOT = Path(__file__).parents[3]
MODULE = "experiments.benchmarks.gpu.bringup"
SEED_LIMIT = 2**31 - plan.SEEDS  # JAX takes 32 bits, and a run uses several consecutive seeds
MARGIN_SECONDS = 5.0  # part of the budget, to end running steps and to write the results


class Stopped(BaseException):
    """A signal asked the process to end. Not an ``Exception``, so that no handler catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class NoCardError(Exception):
    """There is no GPU that can run the kernels."""


class Run:
    """Runs all phases, one after the other.

    Args:
        record: record that stores the results.
        steps: plan that makes the steps of each phase.
        budget: time for all phases, in seconds.
    """

    def __init__(self, record: Record, steps: Plan, budget: float) -> None:
        self._record = record
        self._steps = steps
        self._end = record.start + budget - MARGIN_SECONDS
        self._broken = Broken()

    def all(self) -> None:
        """Runs every phase; unfinished steps run again in the remaining time."""
        self._card()
        finished = [
            *self._smoke(),
            *self._phase_noting_broken(plan.RIGHT, self._steps.right(self._broken)),
            *self._phase(plan.FAST, self._steps.fast(self._broken)),
            *self._phase(plan.WHY, self._steps.why(self._broken)),
        ]
        unfinished = [each for each in finished if each.verdict.outcome in UNFINISHED]
        # Slow steps come last, because they may be slow again.
        unfinished.sort(key=lambda each: each.verdict.outcome is Outcome.SLOW)
        again = [each.step for each in unfinished if not each.step.missing]
        if again:
            self._record.say(f"running {len(again)} unfinished steps in the remaining time")
            [*self._run(again, self._end, 1)]

    def _card(self) -> None:
        (card,) = self._run([self._steps.card()], self._end, 1)
        outcome = card.verdict.outcome
        if outcome is Outcome.REFUSED or (outcome is Outcome.ERROR and not card.verdict.measured):
            raise NoCardError(card.verdict.detail)
        self._keep(card)
        (ceilings,) = self._run([self._steps.ceilings()], self._end, 1)
        self._keep(ceilings)

    def _keep(self, finished: Finished) -> None:
        for values in finished.verdict.measured:
            self._record.machine(values)

    def _smoke(self) -> list[Finished]:
        finished = self._phase_noting_broken(plan.SMOKE, self._steps.smoke())
        failed = [
            each.step for each in finished
            if each.verdict.outcome in FAILED and "kernel" in each.step.about
        ]  # fmt: skip
        chosen = failed[:MAX_KERNELS]
        if chosen:
            steps = [again for step in chosen for again in self._steps.switched(step, SWITCHES)]
            switched = self._phase(plan.SWITCHES, steps)
            for step in chosen:
                kernel = step.about["kernel"]
                outcomes = {
                    each.step.about["switch"]: each.verdict.outcome
                    for each in switched
                    if each.step.about["kernel"] == kernel
                }
                self._record.conclude(conclusion(" ".join(kernel), outcomes))
        return finished

    def _phase_noting_broken(self, name: str, steps: Iterable[Step]) -> list[Finished]:
        """Runs a phase; later phases leave out the kernels that hung or crashed in it."""
        finished = self._phase(name, steps)
        for each in finished:
            self._broken.note(each)
        return finished

    def _phase(self, name: str, steps: Iterable[Step]) -> list[Finished]:
        """Runs the steps of a phase within its share of the remaining time."""
        names = [*plan.SHARES]
        later = sum(
            share for other, share in plan.SHARES.items()
            if names.index(other) > names.index(name) and other != plan.SWITCHES
        )  # fmt: skip
        now = time.monotonic()
        share = plan.SHARES[name] / (plan.SHARES[name] + later)
        end = now + share * max(self._end - now, 0)
        return [*self._run([*steps], end, plan.PARALLEL.get(name, 1))]

    def _run(self, steps: Sequence[Step], end: float, parallel: int) -> Iterator[Finished]:
        self._record.plan(steps)
        finished = run_steps(
            steps, end=end, parallel=parallel,
            environment=environment(self._steps.interpret), folder=str(ROOT),
        )  # fmt: skip
        for each in finished:
            self._record.add(each)
            yield each


def environment(interpret: bool) -> dict[str, str]:
    """Environment of children: package paths, no memory preallocation, unbuffered output."""
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    changes = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if interpret:
        changes["JAX_PLATFORMS"] = "cpu"
    return {**os.environ, **changes}


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(number)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        usage=argparse.SUPPRESS,  # an error is one line
        description="Checks and times the GPU kernels within a given time.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER",
                        help="folder for results.json and log.txt")  # fmt: skip
    parser.add_argument("--budget", type=float, default=560, metavar="SECONDS",
                        help="time for the whole run (default: 560)")  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N",
                        help="seed of random operands (default: a new one each time)")  # fmt: skip
    parser.add_argument("--interpret", action="store_true",
                        help="for development: tiny shapes on a CPU, interpreted")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = arguments(argv)
    if not plan.SMALLEST_BUDGET <= options.budget < math.inf:
        print(f"--budget must be at least {plan.SMALLEST_BUDGET:.0f} seconds, which the first two "
              f"phases take, and finite, got {options.budget:g}", file=sys.stderr)  # fmt: skip
        return 2
    if options.seed is not None and not 0 <= options.seed < SEED_LIMIT:
        print(f"--seed must be from 0 to {SEED_LIMIT - 1}, got {options.seed}", file=sys.stderr)
        return 2
    seed = secrets.randbelow(SEED_LIMIT) if options.seed is None else options.seed
    command = shlex.join(["python3", "-m", MODULE, *(sys.argv[1:] if argv is None else argv)])
    try:
        record = Record(options.out, command=command, budget=options.budget, seed=seed,
                        interpret=options.interpret)  # fmt: skip
    except OSError as error:
        print(f"--out must be a folder that can be written: {error}", file=sys.stderr)
        return 2
    return _run(record, seed, options)


def _run(record: Record, seed: int, options: argparse.Namespace) -> int:
    signals = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    before = {number: signal.signal(number, _stop) for number in signals}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            record.say(f"seed {seed}")
            seeds = range(seed, seed + (plan.TOY_SEEDS if options.interpret else plan.SEEDS))
            steps = Plan([*seeds], Path(scratch), options.interpret)
            Run(record, steps, options.budget).all()
    except NoCardError as error:
        record.close("no card")
        print(f"no GPU to run the kernels on: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        record.close(str(stopped))
        return 128 + stopped.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    failed = record.close("complete")
    unchecked = [
        outcome for (phase, _), outcome in record.outcomes.items()
        if phase in (plan.SMOKE, plan.RIGHT) and outcome in UNFINISHED
    ]  # fmt: skip
    return 1 if failed or unchecked else 0


if __name__ == "__main__":
    sys.exit(main())
