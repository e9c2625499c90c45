"""Presets that are trained, or whose cost is counted, to stand in one table."""
