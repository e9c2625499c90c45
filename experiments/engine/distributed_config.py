"""How the processes of a run find each other."""

import dataclasses

from experiments.engine.config import check


@dataclasses.dataclass(frozen=True)
class Distributed:
    """How this process finds the others; by default it is alone.

    Attributes:
        auto: the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU) says where the others are.
        coordinator: ``host:port`` of process 0, in place of ``auto``.
        processes: number of processes, with ``coordinator``.
        process: number of this one, 0 to ``processes - 1``, with ``coordinator``.
        local_devices: numbers of the host's accelerators that are this process's, where several
            processes share a host; all by default.
        cpu_devices: number of devices that JAX makes of the CPU; 1 by default.
    """

    auto: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] = ()
    cpu_devices: int | None = None

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for flags that do not belong together."""
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
