"""Lets through to a web server what one page needs of it, and nothing else."""

import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[..., Awaitable[Message]], Callable[..., Awaitable[None]]], Any]
_Refusal = tuple[HTTPStatus, str]

_FILE_BYTES = 4096  # that an empty file takes, with its folder


class Gate:
    """ASGI middleware: refuses unknown addresses, and bodies that are too long before reading them.

    A request that changes something (POST) must come from the page itself or from no page, and is
    refused while the server's folder is full. Requests that are under way count with their whole
    length, so the folder outgrows its bound by no more than what the app itself writes.

    Args:
        app: what answers the rest.
        routes: by the method (GET, POST), a pattern of whole paths.
        names: what the header ``Host`` may be, in lower case; None is anything.
        max_bytes: of a request's body, which must say its length.
        folder: in which the app writes.
        folder_bytes: that may lie there.
    """

    def __init__(
        self,
        app: App,
        routes: dict[str, str],
        names: Collection[str] | None,
        max_bytes: int,
        folder: Path,
        folder_bytes: int,
    ) -> None:
        self._app = app
        self._routes = {method: re.compile(pattern) for method, pattern in routes.items()}
        self._names = names
        self._max_bytes = max_bytes
        self._folder = folder
        self._folder_bytes = folder_bytes
        self._coming = 0

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif (refusal := self._refusal(scope)) is None:
            length = _length(dict(scope["headers"]))
            self._coming += length
            try:
                await self._app(scope, receive, send)
            finally:
                self._coming -= length
        elif scope["type"] == "http":
            status, text = refusal
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": text.encode()})
        else:
            await send({"type": "websocket.close"})

    def _refusal(self, scope: Message) -> _Refusal | None:
        headers = dict(scope["headers"])
        name = headers.get(b"host", b"").decode("latin-1").lower()
        if self._names is not None and name not in self._names:
            return HTTPStatus.FORBIDDEN, "The page has another name."
        route = self._routes.get(scope.get("method", ""))
        if route is None or not route.fullmatch(scope["path"]):
            return HTTPStatus.NOT_FOUND, "The page has no such address."
        if b"transfer-encoding" in headers:
            return HTTPStatus.LENGTH_REQUIRED, "A request must say how long it is."
        length = _length(headers)
        if length > self._max_bytes:
            text = f"A request may have at most {self._max_bytes:,} bytes."
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text
        return self._post_refusal(name, headers, length) if scope["method"] == "POST" else None

    def _post_refusal(self, name: str, headers: dict[bytes, bytes], length: int) -> _Refusal | None:
        # Browsers always tell it, and no page can have them tell another.
        origin = headers.get(b"origin")
        if origin is not None and _netloc(origin) != name:
            return HTTPStatus.FORBIDDEN, "Only the page itself may ask for this."
        if _bytes_in(self._folder) + self._coming + length > self._folder_bytes:
            text = "The server holds as many pictures as it may: try again later."
            return HTTPStatus.INSUFFICIENT_STORAGE, text
        return None


def _length(headers: dict[bytes, bytes]) -> int:
    """Of the body. The server has checked that it is a number, and reads no further."""
    return int(headers.get(b"content-length", b"0"))


def _netloc(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:  # brackets around what is no address
        return None


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                total += max(_FILE_BYTES, os.lstat(os.path.join(parent, name)).st_size)
    return total
