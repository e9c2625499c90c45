"""Where the data of the experiments come from."""
