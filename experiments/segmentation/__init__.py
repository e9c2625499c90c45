"""Semantic segmentation (section 4.2): Tables 8 and 9, and Fig. 7."""
