"""Checks and times the GPU kernels on a GPU: ``python -m experiments.benchmarks.gpu.bringup``.

A parent process, which never imports JAX, runs every step in a separate child process. A kernel
that hangs or corrupts its CUDA context therefore ends only one step.

The parent uses ``bringup``, ``plan``, ``check_cases``, ``kernels``, ``broken``, ``children``,
``outcomes``, ``record``, ``switches`` and ``profilers``. The children use ``child`` and the modules
that it names. ``tables`` and ``doubts`` read the results.
"""
