"""Settings for functions that are traced inside a ``with`` block."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


class ScopedSettings[Settings: Any]:
    """Settings in a frozen dataclass, whose fields a ``with`` block can change.

    Args:
        default: function that returns the settings outside all blocks.
    """

    def __init__(self, default: Callable[[], Settings]) -> None:
        self._default = default
        self._current: contextvars.ContextVar[Settings | None] = contextvars.ContextVar(
            "settings", default=None
        )

    def current(self) -> Settings:
        """The current settings."""
        current = self._current.get()
        return self._default() if current is None else current

    @contextlib.contextmanager
    def using(self, **changes: Any) -> Iterator[None]:
        """Changes fields of the settings inside the block."""
        token = self._current.set(dataclasses.replace(self.current(), **changes))
        try:
            yield
        finally:
            self._current.reset(token)
