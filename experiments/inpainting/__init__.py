"""Inpainting: filling holes in photographs (section 4.3 of the CARAFE++ paper)."""
