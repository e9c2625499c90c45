"""What an error must say."""

import re


def naming(*parts):
    """A pattern that finds a message which has these parts in their order, as whole words."""
    return ".*".join(_whole(str(part)) for part in parts)


def _whole(part):
    return re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(part))
