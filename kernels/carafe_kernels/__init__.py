"""Kernels of content-aware reassembly: geometry, normalisers and implementations."""
