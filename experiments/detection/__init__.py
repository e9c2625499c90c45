"""Two-stage detection on COCO: Faster R-CNN and Mask R-CNN (sections 4.1 and 5.1)."""
