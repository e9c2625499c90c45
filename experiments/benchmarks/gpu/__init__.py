"""The GPU kernels, right and how fast: ``python -m experiments.benchmarks.gpu``."""
