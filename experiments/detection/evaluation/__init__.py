"""COCO's evaluation of detectors, from arrays on the devices to metrics."""
