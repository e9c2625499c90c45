"""Images with holes: masks and batches."""
