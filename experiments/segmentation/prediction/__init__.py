"""Segments pictures of a user, and draws and compares the results."""
