# pytest imports every module, in search of doctests, and this one needs PyTorch.
collect_ignore = ["torch_networks.py"]
