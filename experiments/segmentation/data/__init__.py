"""The data of the segmentation task: its datasets, images and batches."""
