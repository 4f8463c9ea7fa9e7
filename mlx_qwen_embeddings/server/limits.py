"""Bounds on what is taken in: requests and bytes in hand, bytes of a body, and nothing new while the server drains."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen_embeddings.server.bodies import Bodies, Body, ClientGoneError
from mlx_qwen_embeddings.server.errors import BUSY_SECONDS, ApiError, refuse
from mlx_qwen_embeddings.server.gone import note_gone
from mlx_qwen_embeddings.server.settings import ServerSettings


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
