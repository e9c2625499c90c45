# It needs PyTorch; the tests marked `torch` import it.
collect_ignore = ["twins.py"]
