"""The names of the metrics of the pyramid task that segmentation does not have."""

MEAN_IOU_OF_BORDERS = "mIoU_border"
