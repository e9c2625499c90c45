"""Starts the toy programs in one or several processes."""

import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
ARGUMENTS = (
    *("folder", "steps", "checkpoint-every", "workers"),
    *("process", "processes", "port", "note"),
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """All processes of one start of a program in this folder.

    Each process is in a group of its own, as if a terminal had started it.

    Args:
        program: name of its module.
        arguments: command-line arguments of each process.
    """

    def __init__(self, program, arguments):
        command = [sys.executable, "-m", f"tests.experiments.engine.{program}"]
        self.processes = [
            subprocess.Popen(
                [*command, *each],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            for each in arguments
        ]

    def finish(self, code=0):
        outputs = [process.communicate(timeout=300)[0] for process in self.processes]
        for process, output in zip(self.processes, outputs, strict=True):
            assert process.returncode == code, output
        return outputs

    def wait_for(self, condition):
        deadline = time.monotonic() + 300
        while not condition():
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate(timeout=60)  # waits for its workers too


class Run(Processes):
    """All processes of one start of the toy program."""

    def __init__(self, folder, steps, processes, workers, checkpoint_every=2, note=""):
        port = free_port()
        arguments = []
        for process in range(processes):
            values = (folder, steps, checkpoint_every, workers, process, processes, port, note)
            options = [f"--{name}={value}" for name, value in zip(ARGUMENTS, values, strict=True)]
            arguments.append(["train", *options])
        super().__init__("toy_program", arguments)
