"""Lets through to a web server what one page needs of it, and nothing else."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[..., Awaitable[Message]], Callable[..., Awaitable[None]]], Any]


class Gate:
    """ASGI middleware: refuses unknown addresses, and bodies that are too long before reading them.

    Args:
        app: what answers the rest.
        routes: by the method (GET, POST), a pattern of whole paths.
        max_bytes: of a request's body, which must say its length.
    """

    def __init__(self, app: App, routes: dict[str, str], max_bytes: int) -> None:
        self._app = app
        self._routes = {method: re.compile(pattern) for method, pattern in routes.items()}
        self._max_bytes = max_bytes

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or (refusal := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            status, text = refusal
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": text.encode()})
        else:
            await send({"type": "websocket.close"})

    def _refusal(self, scope: Message) -> tuple[HTTPStatus, str] | None:
        route = self._routes.get(scope.get("method", ""))
        if route is None or not route.fullmatch(scope["path"]):
            return HTTPStatus.NOT_FOUND, "The page has no such address."
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers:
            return HTTPStatus.LENGTH_REQUIRED, "A request must say how long it is."
        # The server has checked that it is a number, and reads no further.
        if int(headers.get(b"content-length", b"0")) > self._max_bytes:
            text = f"A request may have at most {self._max_bytes:,} bytes."
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text
        return None
