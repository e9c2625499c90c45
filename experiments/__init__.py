"""Experiments of the paper, run from a checkout: `python -m experiments.<task>`."""
