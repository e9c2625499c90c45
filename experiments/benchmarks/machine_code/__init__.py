"""Compiles the GPU kernels for an H100 on a machine without a GPU.

It needs the CUDA plugin and disassembler, some 4 GB, so a separate environment is best::

    python -m venv .venv-cuda
    .venv-cuda/bin/pip install "jax[cuda13]" flax nvidia-cuda-nvdisasm jaxtyping
    export JAX_PLATFORMS=cpu PYTHONPATH=.:kernels
    .venv-cuda/bin/python -m experiments.benchmarks.machine_code
    .venv-cuda/bin/python -m experiments.benchmarks.machine_code.two_gpus
"""
