"""Detecting objects in a user's own pictures, and drawing them."""
