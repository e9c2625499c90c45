# pytest imports every module, in search of doctests, and this one needs PyTorch.
collect_ignore = ["public_networks.py"]
