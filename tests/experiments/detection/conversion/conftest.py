# They need PyTorch; the tests marked `torch` import them.
collect_ignore = ["detectron2_twins.py", "mmdet_twins.py", "twin_layers.py"]
