"""Two-stage detection: its operations, which know no network, and its networks."""
