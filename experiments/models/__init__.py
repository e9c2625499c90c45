"""Networks for several tasks, with configurable resamplers."""
