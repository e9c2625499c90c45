"""Config of a run with several processes."""

import dataclasses

from experiments.engine.config import check


@dataclasses.dataclass(frozen=True)
class Distributed:
    """How this process connects to the others. The default is a single process.

    Attributes:
        auto: get the addresses from the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU).
        coordinator: address ``host:port`` of process 0, if ``auto`` is not set.
        processes: number of processes of the run, with ``coordinator``.
        process: number of this process, 0 to ``processes - 1``, with ``coordinator``.
        local_devices: numbers of the accelerators that this process uses, if several processes run
            on one host; the default is all.
        cpu_devices: number of devices into which JAX divides the CPU; the default is 1.
    """

    auto: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] = ()
    cpu_devices: int | None = None

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for options that contradict each other."""
        explicit = (self.coordinator, self.processes, self.process)
        given = sum(value is not None for value in explicit)
        check(
            given in (0, 3),
            "coordinator, processes and process",
            "given together, or not at all",
            explicit,
        )
        check(not (self.auto and given), "auto", "False beside a coordinator", self.auto)
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            fits = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
            check(fits, "coordinator", "host:port", self.coordinator)
        for name in ("processes", "cpu_devices"):
            number = getattr(self, name)
            check(number is None or number >= 1, name, "at least 1", number)
        if self.processes is not None and self.process is not None:
            highest = self.processes - 1
            check(0 <= self.process <= highest, "process", f"in 0..{highest}", self.process)
