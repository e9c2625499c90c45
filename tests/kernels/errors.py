"""Patterns that match error messages."""

import re


def naming(*parts):
    """A pattern that matches a message with these parts in this order, as whole words."""
    return ".*".join(_whole(str(part)) for part in parts)


def _whole(part):
    return re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(part))
