"""The names of the commands that study kernels."""

REPLACE_KERNELS, KERNEL_SUMS = "replace-kernels", "kernel-sums"
