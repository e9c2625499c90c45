"""A web page on which two models fill a painted hole side by side."""
