"""Networks for semantic segmentation: UperNet, PSPNet and PSANet."""
