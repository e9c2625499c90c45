"""The training system that every task shares."""
