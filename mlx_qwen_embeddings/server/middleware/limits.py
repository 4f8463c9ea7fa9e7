"""Limits on the requests in progress and their bodies, and the end of a request whose client hangs up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen_embeddings.server.errors import BUSY_SECONDS, ApiError, refuse
from mlx_qwen_embeddings.server.settings import ServerSettings

GONE_STATUS, GONE_CODE = 499, "client_gone"
"""What log and metrics say of a request whose client hung up: no response was sent. The number is nginx's."""


class ClientGoneError(Exception):
    """The client hung up before its response began."""


class Traffic:
    """The requests in progress, and whether more are accepted. Used only on the server's event loop.

    Args:
        max_requests: Most requests in progress.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self.in_progress = 0
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request as in progress until the block ends.

        Raises:
            ApiError: When no further request is accepted.
        """
        if self.draining:
            raise ApiError(503, "the server is shutting down: ask another", "draining", retry_after=BUSY_SECONDS)
        if self.in_progress >= self._max_requests:
            message = f"{self.in_progress} requests are in progress: try again later"
            raise ApiError(429, message, "too_many_requests", retry_after=BUSY_SECONDS)
        self.in_progress += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_progress -= 1
            if not self.in_progress:
                self.idle.set()


class Limits:
    """Reads the body of each POST within the limits, and passes it on until its client hangs up."""

    def __init__(self, app: ASGIApp, traffic: Traffic, settings: ServerSettings) -> None:
        self._app, self._traffic, self._settings = app, traffic, settings
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on; one without a body is cheap and not counted."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            with self._traffic.admit():
                async with self._read(scope, receive) as body:
                    await self._run(scope, body, receive, send)
        except ApiError as error:
            await refuse(error, scope, receive, send)
        except ClientGoneError:
            scope.setdefault("state", {})["error"] = GONE_CODE

    @asynccontextmanager
    async def _read(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """Read a whole body; its bytes count as held until the block ends.

        Raises:
            ApiError: When the body is too large, whatever its headers say, or too slow.
            ClientGoneError: When the client hangs up before the body is complete.
        """
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal():
            self._check(0, int(declared))
        parts, size, more = list[bytes](), 0, True
        try:
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    while more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise ClientGoneError
                        part, more = message.get("body", b""), message.get("more_body", False)
                        self._check(size, len(part))
                        parts.append(part)
                        size += len(part)
                        self._held_bytes += len(part)
            except TimeoutError as error:
                reason = f"the body did not arrive within {self._settings.request_timeout:g} s"
                raise ApiError(503, reason, "timeout", retry_after=BUSY_SECONDS) from error
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._held_bytes -= size

    def _check(self, size: int, more: int) -> None:
        """Refuse ``more`` bytes of a body of which ``size`` bytes are held already.

        Raises:
            ApiError: When that body becomes too large, or all bodies together; a body that is alone never meets the second.
        """
        limit = self._settings.max_body_bytes
        if size + more > limit:
            raise ApiError(413, f"the body is larger than {limit} bytes: send fewer texts per request", "body_too_large")
        others = self._held_bytes - size
        if others and self._held_bytes + more > self._settings.max_total_bytes:
            message = f"other requests in progress hold {others} bytes: try again later"
            raise ApiError(429, message, "too_many_bytes", retry_after=BUSY_SECONDS)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the endpoint, and cancel it when the client hangs up before the response begins.

        Raises:
            ClientGoneError: When the client did.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        responding = gone = False

        async def watch() -> Message:
            nonlocal gone
            while (message := await receive())["type"] != "http.disconnect":
                pass
            if not responding:
                gone = True
                task.cancel()
            return message

        watching = asyncio.create_task(watch())

        async def receive_again() -> Message:
            return messages.pop() if messages else await asyncio.shield(watching)

        async def send_on(message: Message) -> None:
            nonlocal responding
            responding = True
            await send(message)

        try:
            await self._app(scope, receive_again, send_on)
        except asyncio.CancelledError:
            if not gone or task.uncancel():
                raise
            raise ClientGoneError from None
        finally:
            watching.cancel()
