"""Steps that run a child under NVIDIA's profiler or memory checker, if installed."""

import csv
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu.children import Step
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict

NCU, SANITIZER = "ncu", "compute-sanitizer"

# The counters to keep, out of some thousand: time and occupancy, wavefronts and bank conflicts of
# shared memory, sectors of the L2 cache, bytes from memory, stall reasons, and use of each unit.
KEPT = re.compile(
    r"gpu__time_duration\.sum$"
    r"|launch__(shared_mem_config_size|waves_per_multiprocessor|registers_per_thread|grid_size"
    r"|occupancy_limit_\w+|shared_mem_per_block_dynamic)"
    r"|sm__warps_active\.avg\.pct_of_peak_sustained_active$"
    r"|\w*data_bank_conflicts_pipe_lsu_mem_shared\w*\.sum$"
    r"|\w*wavefronts_mem_shared\w*\.sum$"
    r"|sm\w*__\w*inst_executed\w*(_op_shared\w*|_pipe_lsu|_pipe_fma\w*|_pipe_alu|)\.sum$"
    r"|lts__t_(sectors|requests)\w*\.sum$"
    r"|dram__bytes_(read|write)\.sum$"
    r"|smsp__average_warps?_(issue_stalled|latency_issue_stalled)_\w+_per_issue_active\.ratio$"
    r"|smsp__average_warps_issue_stalled_\w+\.ratio$"
    r"|(sm|l1tex|lts|dram|gpu__compute_memory)__?\w*throughput\w*\.pct_of_peak_sustained_elapsed$"
    r"|smsp__issue_active\.avg\.(per_cycle_active|pct_of_peak_sustained_active)$"
)


def _missing(phase: str, name: str, tool: str) -> Step:
    return Step(phase, name, (), 0, missing=f"{tool} is not installed")


def counters(
    phase: str, name: str, command: Sequence[str], seconds: float, about: Mapping[str, Any],
    scratch: Path,
) -> Step:  # fmt: skip
    """A step that reads the counters of one launch of one of our kernels.

    The clock is not locked. The child runs the kernel twice; the first launch is skipped.
    """
    if shutil.which(NCU) is None:
        return _missing(phase, name, NCU)
    report = scratch / f"{re.sub(r'[^a-z0-9]+', '-', name)}.csv"
    tool = [NCU, "--clock-control", "none", "--kernel-name", "regex:carafe", "--launch-skip", "1",
            "--launch-count", "1", "--set", "full", "--csv", "--page", "raw",
            "--log-file", str(report)]  # fmt: skip

    def read(found: Verdict) -> Verdict:
        return with_counters(found, _text(report))

    return Step(phase, name, [*tool, *command], seconds, about, report=read)


def memory_check(
    phase: str, name: str, command: Sequence[str], seconds: float, scratch: Path
) -> Step:
    """A step that checks whether a child accesses memory outside its arrays.

    JAX then allocates every array by CUDA. Usually it allocates large blocks and divides them; then
    the checker would not know where an array ends.
    """
    if shutil.which(SANITIZER) is None:
        return _missing(phase, name, SANITIZER)
    report = scratch / "memcheck.txt"
    tool = [
        "env",
        "XLA_PYTHON_CLIENT_ALLOCATOR=platform",
        SANITIZER,
        "--tool",
        "memcheck",
        "--log-file",
        str(report),
    ]

    def read(found: Verdict) -> Verdict:
        return with_memory_errors(found, _text(report))

    return Step(phase, name, [*tool, *command], seconds, report=read)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def with_counters(found: Verdict, report: str) -> Verdict:
    """Adds the counters of a report in CSV, whose first line has names, the second one units."""
    lines = [line for line in report.splitlines() if line.startswith('"')]
    rows = [*csv.reader(lines)]
    if len(rows) < 3:
        said = " ".join(line for line in report.splitlines() if line.startswith("==ERROR=="))
        if found.outcome is Outcome.OK:
            return Verdict(Outcome.ERROR, f"no counters: {said[:300] or 'no report'}")
        return Verdict(found.outcome, f"{found.detail}; {said[:300]}", found.measured)
    names, units, values = rows[0], rows[1], rows[-1]
    kept = {
        f"{name} [{unit}]" if unit else name: value
        for name, unit, value in zip(names, units, values, strict=False)
        if KEPT.match(name)
    }
    kernel = dict(zip(names, values, strict=False)).get("Kernel Name", "")
    # The child may reach its limit after the counters have been read.
    outcome = found.outcome if found.outcome is not Outcome.BAD_OUTPUT else Outcome.OK
    measured = (*found.measured, {"kernel": kernel, "counters": kept})
    return Verdict(outcome, f"{len(kept)} counters of {kernel}", measured)


def with_memory_errors(found: Verdict, report: str) -> Verdict:
    """Adds the number of memory errors in a report."""
    summary = re.search(r"ERROR SUMMARY: (\d+) errors?", report)
    unsupported = "Device not supported" in report
    if summary is None or unsupported:
        if found.outcome is not Outcome.OK:
            return found
        why = "device not supported" if unsupported else "no summary"
        return Verdict(Outcome.ERROR, f"no report: {why}", found.measured)
    count = int(summary.group(1))
    measured = (*found.measured, {"memory_errors": count})
    if count == 0:
        return Verdict(found.outcome, f"{found.detail}; 0 memory errors", measured)
    # The first lines of a finding say what happened and where; lines of the host's stack follow.
    findings = [
        line.strip("= ")
        for line in report.splitlines()
        if line.startswith("=========") and "Host Frame" not in line
    ]
    detail = f"{count} memory errors: {' '.join(findings[1:5])[:300]}"
    return Verdict(Outcome.WRONG, detail, measured)
