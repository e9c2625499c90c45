"""Images with annotated objects: datasets, sample order and batches."""
