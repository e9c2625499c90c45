"""Data sets of the experiments, and pictures of users."""
