"""Images with objects: data sets, order, batches."""
