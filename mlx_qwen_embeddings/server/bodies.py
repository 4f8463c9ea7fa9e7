"""A request's body as it comes: bounded in size and time, and counted among those of the others."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from mlx_qwen_embeddings.server.errors import BUSY_SECONDS, ApiError
from mlx_qwen_embeddings.server.settings import ServerSettings


class ClientGoneError(Exception):
    """The client went away before it had sent its whole body."""


class Bodies:
    """The bytes of all bodies in hand. Used on the server's event loop alone."""

    def __init__(self, settings: ServerSettings) -> None:
        """Start with none."""
        self._each, self._most, self._held = settings.max_body_bytes, settings.max_total_bytes, 0
        self.seconds = settings.request_timeout

    def check(self, own: int, more: int) -> None:
        """Refuse more bytes of a body of which ``own`` are in hand.

        Raises:
            ApiError: When the body is too large, or all of them together; one that is alone is never told the second.
        """
        if own + more > self._each:
            message = f"the body is larger than {self._each} bytes: send fewer texts a request"
            raise ApiError(413, message, "body_too_large")
        if self._held > own and self._held + more > self._most:
            message = f"{self._held - own} bytes of other requests are in hand: try again later"
            raise ApiError(429, message, "too_many_bytes", retry_after=BUSY_SECONDS)

    def hold(self, number: int) -> None:
        """Count bytes in, or out where the number is negative."""
        self._held += number


class Body:
    """One of them."""

    def __init__(self, bodies: Bodies) -> None:
        """Start with nothing read."""
        self._bodies, self._parts, self._size = bodies, list[bytes](), 0

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Read it whole.

        Raises:
            ApiError: When it is too large, whatever its headers said, or too slow.
            ClientGoneError: When its end never comes.
        """
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal():
            self._bodies.check(0, int(length))
        try:
            async with asyncio.timeout(self._bodies.seconds):
                while await self._read_part(receive):
                    pass
        except TimeoutError as error:
            message = f"the body did not come within {self._bodies.seconds:g} s"
            raise ApiError(503, message, "timeout", retry_after=BUSY_SECONDS) from error
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole

    async def _read_part(self, receive: Receive) -> bool:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        self._bodies.check(self._size, len(part))
        self._parts.append(part)
        self._size += len(part)
        self._bodies.hold(len(part))
        return bool(message.get("more_body"))

    def release(self) -> None:
        """Count it out: the request is over."""
        self._bodies.hold(-self._size)
