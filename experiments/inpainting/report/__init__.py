"""Tables and figures of one or several runs."""
