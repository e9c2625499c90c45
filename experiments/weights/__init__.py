"""Weights of public models: their files, names and arrangements."""
