"""Tables and figures of one run or several."""
