"""What an error must say."""

import re


def naming(*parts):
    """A pattern that finds a message which has these parts in their order."""
    return ".*".join(re.escape(str(part)) for part in parts)
