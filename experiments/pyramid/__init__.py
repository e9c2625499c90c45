"""A small study of upsamplers: semantic segmentation of scenes on cached features."""
