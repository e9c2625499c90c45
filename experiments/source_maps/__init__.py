"""Shows and measures from which pixels of an earlier map a pixel of a later map is reassembled."""
