"""Each module here is one command that prints one table."""
