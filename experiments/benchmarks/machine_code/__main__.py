"""Prints tables of the machine code of the GPU kernels.

The tables have registers, spills, shared memory and instructions of every kernel and variant, and
the kernels and temporary memory of whole operators. Exits with 1 if any kernel spills.
"""

import sys

from experiments.benchmarks.machine_code import kernels, programs
from experiments.benchmarks.machine_code.h100 import on_one_gpu


def main() -> None:
    """Prints the tables."""
    shape = on_one_gpu()
    spilled = [
        kernels.print_table("kernel", kernels.all_kernels(shape)),
        kernels.print_table("cores", kernels.both_cores(shape)),
        kernels.print_table("both gradients", kernels.joint_gradients(shape)),
    ]
    programs.print_programs(shape)
    sys.exit(1 if any(spilled) else 0)


if __name__ == "__main__":
    main()
