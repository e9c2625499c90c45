"""Runs steps as child processes that can neither crash nor block the parent."""

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from experiments.benchmarks.gpu.outcomes import Ending, Outcome, Verdict, verdict

MAX_OUTPUT = 2**20  # bytes of messages
MAX_LOG = 64 * 2**20  # bytes that a child may write to standard error
KEPT_LOG = 150_000  # bytes kept from the beginning and from the end
POLL_SECONDS = 0.1
REAPING_SECONDS = 5.0
# A step starts only if this share of its limit is left.
MIN_SHARE = 1 / 3


@dataclasses.dataclass(frozen=True)
class Step:
    """A command to run.

    Attributes:
        phase: phase of the run.
        name: name of the step, unique within the phase.
        command: command with arguments, which writes messages to standard output, see ``outcomes``.
        seconds: time limit.
        about: properties of the step that are stored in the record, for the tables.
        report: function that adds the report of a profiler to the verdict, after the step has
            ended.
        missing: reason why the step cannot run; empty if it can.
    """

    phase: str
    name: str
    command: Sequence[str]
    seconds: float
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    report: Callable[[Verdict], Verdict] | None = None
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A step that has ended, or that was never started."""

    step: Step
    verdict: Verdict
    seconds: float = 0.0
    log: str = ""


class _Child:
    """A child process in its own process group."""

    def __init__(self, step: Step, end: float, environment: Mapping[str, str], folder: str) -> None:
        self.step = step
        self.start = time.monotonic()
        limit = self.start + step.seconds
        self.deadline, self.late = min((limit, Outcome.HANG), (end, Outcome.NO_TIME))
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, finish() closes it
        try:
            self.process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self.log,
                env=environment,
                cwd=folder,
                process_group=0,
            )
        except OSError:
            self.log.close()
            raise
        assert self.process.stdout is not None
        self.pipe = self.process.stdout
        os.set_blocking(self.pipe.fileno(), False)
        self.output = bytearray()
        self.killed: Outcome | None = None

    def read(self) -> bool:
        """Reads available output from the pipe; returns whether there may be more."""
        try:
            while len(self.output) <= MAX_OUTPUT:
                part = os.read(self.pipe.fileno(), 65536)
                if not part:
                    return False
                self.output += part
        except BlockingIOError:
            pass
        return len(self.output) <= MAX_OUTPUT

    def over(self) -> bool:
        """Whether the process has ended or must be ended now."""
        if self.process.poll() is not None:
            return True
        if time.monotonic() > self.deadline:
            self.killed = self.late
        elif len(self.output) > MAX_OUTPUT or os.fstat(self.log.fileno()).st_size > MAX_LOG:
            self.killed = Outcome.BAD_OUTPUT
        return self.killed is not None

    def end(self) -> None:
        """Kills the process group; gives up after some seconds if the driver keeps a process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(REAPING_SECONDS)

    def close(self) -> None:
        """Closes the pipe and the log."""
        self.pipe.close()
        self.log.close()

    def finish(self) -> Finished:
        """Ends the process and returns its verdict."""
        self.end()
        self.read()
        log = _both_ends(self.log)
        self.close()
        ending = Ending(self.process.returncode, self.killed, bytes(self.output), log[-20_000:])
        found = verdict(ending)
        if self.step.report is not None:
            found = _reported(self.step.report, found)
        return Finished(self.step, found, time.monotonic() - self.start, log)


def _reported(report: Callable[[Verdict], Verdict], found: Verdict) -> Verdict:
    """Adds a profiler's report to a verdict; a report that cannot be read is an error."""
    try:
        return report(found)
    except Exception as error:
        detail = f"cannot read the report: {type(error).__name__}: {error}"
        return Verdict(Outcome.ERROR, detail, found.measured)


def _both_ends(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= 2 * KEPT_LOG:
        content = file.read()
    else:
        content = file.read(KEPT_LOG) + b"\n[...]\n"
        file.seek(-KEPT_LOG, os.SEEK_END)
        content += file.read()
    return content.decode(errors="replace")


def run_steps(
    steps: Sequence[Step],
    *,
    end: float,
    parallel: int = 1,
    environment: Mapping[str, str],
    folder: str,
) -> Iterator[Finished]:
    """Runs steps and yields each when it ends.

    Args:
        steps: steps to run, in the order in which they start.
        end: end time on the monotonic clock; later, running steps are killed and no step starts.
        parallel: number of steps that run at a time.
        environment: environment variables of the children.
        folder: working folder of the children.
    """
    waiting, running = [*steps], list[_Child]()
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    step = waiting.pop(0)
                    left = max(end - time.monotonic(), 0)
                    if step.missing or left < MIN_SHARE * step.seconds:
                        why = step.missing or f"{left:.0f} s left"
                        yield Finished(step, Verdict(Outcome.NOT_RUN, why))
                        continue
                    try:
                        child = _Child(step, end, environment, folder)
                    except OSError as error:
                        yield Finished(step, Verdict(Outcome.ERROR, str(error)))
                        continue
                    running.append(child)
                    selector.register(child.pipe, selectors.EVENT_READ, child)
                if selector.get_map():
                    for key, _ in selector.select(POLL_SECONDS):
                        if not key.data.read():
                            selector.unregister(key.fileobj)
                else:  # all pipes are closed, and an empty selector does not wait
                    time.sleep(POLL_SECONDS / 10)
                for child in [child for child in running if child.over()]:
                    if child.pipe.fileno() in selector.get_map():
                        selector.unregister(child.pipe)
                    running.remove(child)
                    yield child.finish()
        finally:
            for child in running:
                child.end()
                child.close()
