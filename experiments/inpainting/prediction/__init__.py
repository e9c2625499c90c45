"""Fills holes in a user's own images, of any size."""
