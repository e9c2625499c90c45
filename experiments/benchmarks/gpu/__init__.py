"""The first run of the GPU kernels on a card: ``python -m experiments.benchmarks.gpu.bringup``.

A parent process, which never imports JAX, starts every step as a child of its own. So a kernel that
hangs, or spoils its CUDA context, ends one step. What runs in the parent: ``bringup``, ``plan``,
``check_cases``, ``kernels``, ``broken``, ``children``, ``outcomes``, ``record``, ``switches``,
``profilers``; ``tables`` and ``doubts`` read what it has written. What runs in children: ``child``
and the modules that it names.
"""
