"""Datasets of the experiments, and pictures of users."""
