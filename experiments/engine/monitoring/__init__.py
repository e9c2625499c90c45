"""Records and shows the progress of a run during training."""
