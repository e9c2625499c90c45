"""The detector, layer by layer."""
