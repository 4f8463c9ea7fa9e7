"""Bounds on what is taken in: requests in hand, bytes of a body, and nothing new while the server drains."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen_embeddings.server.errors import BUSY_SECONDS, ApiError, refuse


class Traffic:
    """The requests in hand, and whether more are taken. Used on the server's event loop alone."""

    def __init__(self, most: int) -> None:
        """Start with none."""
        self._most = most
        self.in_hand = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def refusal(self) -> ApiError | None:
        """Say why no further request is taken; None when one is."""
        if self.draining:
            return ApiError(503, "the server is about to stop: ask another", "draining", retry_after=BUSY_SECONDS)
        if self.in_hand >= self._most:
            message = f"{self.in_hand} requests are in hand: try again later"
            return ApiError(429, message, "too_many_requests", retry_after=BUSY_SECONDS)
        return None

    def began(self) -> None:
        """Count one in."""
        self.in_hand += 1
        self._idle.clear()

    def ended(self) -> None:
        """Count one out."""
        self.in_hand -= 1
        if not self.in_hand:
            self._idle.set()

    async def drained(self, seconds: float) -> bool:
        """Wait until none is in hand; False when some still are after so many seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Limits:
    """Refuses what is too much before anything reads it."""

    def __init__(self, app: ASGIApp, traffic: Traffic, max_body_bytes: int) -> None:
        """Keep the bounds."""
        self._app, self._traffic, self._max_body_bytes = app, traffic, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on; those without a body cost nothing and are not counted."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        refusal = self._traffic.refusal()
        if refusal is not None:
            await refuse(refusal, scope, receive, send)
            return
        self._traffic.began()
        try:
            body = await self._read(scope, receive)
            if body is None:
                await refuse(self._too_large(), scope, receive, send)
            else:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._traffic.ended()

    def _too_large(self) -> ApiError:
        message = f"the body is larger than {self._max_body_bytes} bytes: send fewer texts a request"
        return ApiError(413, message, "body_too_large")

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Give the whole body; None when it is too large, whatever its headers said."""
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
