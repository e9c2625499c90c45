"""Evaluation of detectors as COCO does it, from the devices' arrays to its metrics."""
