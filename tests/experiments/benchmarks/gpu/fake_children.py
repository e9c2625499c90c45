"""Programs that end in every way in which a child process can end, and a command line for them."""

import json
import os
import signal
import sys
import textwrap
from pathlib import Path

from experiments.benchmarks.gpu import bringup
from experiments.benchmarks.gpu.plan import Plan

_START = """
import ctypes, json, os, resource, signal, subprocess, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # no process is left when a test kills the parent
def say(**message): print(json.dumps(message), flush=True)
def fail(text, status=1): print(text, file=sys.stderr, flush=True); sys.exit(status)
"""

PROGRAMS = {
    "ok": "say(measured={'a': 1}); say(done='fine')",
    "wrong": "say(measured={'a': 2}); say(wrong='all of it'); say(done='compared')",
    "refused": "say(refused='another capability')",
    "hang": """
        say(measured={'a': 3}); say(running={'doing': 'running it', 'case': None})
        time.sleep(600)""",
    "hang in a case": """
        say(running={'doing': 'running it', 'case': json.loads(sys.argv[1])}); time.sleep(600)""",
    "slow": """
        say(running={'doing': 'running it', 'case': None}); say(stage='compiling')
        time.sleep(600)""",
    "hang with a child": """
        say(stage=str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)""",
    "hang that hears no signal": """
        for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
        time.sleep(600)""",
    "hang without a pipe": "os.close(1); time.sleep(600)",
    "error after a measurement": "say(measured={'card': 'H100'}); fail('nvidia-smi')",
    "orphan": "subprocess.Popen(['sleep', '600']); say(done='left something')",
    "segfault": "say(stage='running'); ctypes.string_at(0)",
    "abort": "os.abort()",
    "memory": """
        resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
        say(stage='taking'); bytearray(2**30)""",
    "killed": "say(stage='running'); os.kill(os.getpid(), signal.SIGKILL)",
    "device memory": "say(error='RESOURCE_EXHAUSTED: Out of memory'); sys.exit(1)",
    "sticky": "say(stage='running'); fail('CUDA_ERROR_ILLEGAL_ADDRESS: an illegal access')",
    "sticky abort": """
        print('F0 CUDA_ERROR_LAUNCH_FAILED', file=sys.stderr, flush=True); os.abort()""",
    "exception": "raise ValueError('no room')",
    "reported exception": "say(error='ValueError: no room'); sys.exit(1)",
    "garbage": "say(measured={'a': 4}); print('garbage'); say(done='fine')",
    "no object": "print('[1, 2]'); say(done='fine')",
    "binary garbage": "os.write(1, bytes(range(256))); say(done='fine')",
    "half a message": "say(measured={'a': 5}); print('{\"do', end='')",
    "nothing": "",
    "endless messages": "\nwhile True: say(stage='again')",
    "endless log": "\nwhile True: print('x' * 10000, file=sys.stderr)",
}  # fmt: skip


def command(program, *arguments):
    """The command that runs one of the programs."""
    return [sys.executable, "-S", "-c", _START + textwrap.dedent(PROGRAMS[program]), *arguments]


def run_with(programs, out, *arguments, seconds=None, planned=None):
    """Runs the command line, with fake programs instead of the real children.

    Args:
        programs: name of the program by function, by kernel, or by kernel with a setting or
            ``one_step``. Other steps run the program ``"ok"``.
        out: output folder.
        arguments: further arguments of the command line.
        seconds: time limits of steps, by kernel or function.
        planned: list to which function and options of every planned step are added.
    """

    class Faked(Plan):
        def step(self, phase, name, do, limit, options, **about):
            limit = (seconds or {}).get(options.get("kernel") or do, limit)
            return super().step(phase, name, do, limit, options, **about)

        def command(self, do, limit, options):
            del limit
            if planned is not None:
                planned.append((do, options))
            kernel = options.get("kernel") or do
            changes = [*options.get("settings", {}), *["one_step"] * options.get("one_step", False)]
            keys = [*(f"{kernel} {change}" for change in changes), kernel, do]
            program = next((programs[key] for key in keys if key in programs), "ok")
            return command(program, json.dumps(options.get("cases", [None])[-1]))

    bringup.Plan = Faked
    return bringup.main(["--out", str(out), *arguments])


def results(out):
    return json.loads((Path(out) / "results.json").read_text())


def is_alive(pid):
    """Whether a process runs; a zombie process does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.pop("MOSAIC_GPU_DUMP_TO", None)
    sys.exit(run_with(json.loads(sys.argv[1]), *sys.argv[2:]))
