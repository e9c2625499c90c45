"""Metrics of semantic segmentation, and the evaluation on a dataset."""
