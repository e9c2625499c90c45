"""Detectors of other libraries: their files of weights become runs, and back."""
