"""Bounds on what is taken in: requests and bytes in hand, bytes of a body, and nothing new while the server drains."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen_embeddings.server.errors import BUSY_SECONDS, ApiError, refuse
from mlx_qwen_embeddings.server.middleware.disconnect import note_gone
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

    def __init__(self, app: ASGIApp, traffic: Traffic, settings: ServerSettings) -> None:
        """Keep the bounds."""
        self._app, self._traffic, self._bodies = app, traffic, Bodies(settings)

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
        body = Body(self._bodies)
        try:
            await self._app(scope, _replay(await body.read(scope, receive), receive), send)
        except ApiError as error:
            await refuse(error, scope, receive, send)
        except ClientGoneError:
            note_gone(scope)
        finally:
            body.release()
            self._traffic.ended()


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
