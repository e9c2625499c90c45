"""What is recorded and shown of a run while it trains."""
