"""What the GPU kernels compile to for an H100, without one.

Needs the CUDA plugin and disassembler, some 4 GB, so best an environment of its own::

    python -m venv .venv-cuda
    .venv-cuda/bin/pip install "jax[cuda13]" flax nvidia-cuda-nvdisasm jaxtyping
    export JAX_PLATFORMS=cpu PYTHONPATH=.:kernels
    .venv-cuda/bin/python -m experiments.benchmarks.machine_code
    .venv-cuda/bin/python -m experiments.benchmarks.machine_code.two_gpus
"""
