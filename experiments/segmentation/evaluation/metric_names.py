"""The names of the metrics of semantic segmentation."""

MEAN_IOU = "mIoU"
MEAN_IOU_OF_PRESENT = "mIoU_present"
PIXEL_ACCURACY = "pixel_accuracy"


def iou_name(class_name: str) -> str:
    """The name of a class's IoU in logs, a detail of :data:`MEAN_IOU`."""
    return f"IoU/{class_name}"
