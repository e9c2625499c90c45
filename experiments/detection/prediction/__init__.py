"""Detects objects in a user's own images, and draws them."""
