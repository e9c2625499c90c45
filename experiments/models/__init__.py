"""Networks in which every resampler is a choice."""
