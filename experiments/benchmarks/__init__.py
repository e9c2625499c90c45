"""Benchmarks: commands that print tables in Markdown, and the modules that they share."""
