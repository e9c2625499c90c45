"""Tables of presets that are trained, or of their costs."""
