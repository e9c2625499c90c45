"""Filling holes in a user's own pictures, of any size."""
