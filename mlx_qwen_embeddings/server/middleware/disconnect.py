"""A client that goes away: its work ends, and its place in the queue is free at once."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GONE_STATUS, GONE_CODE = 499, "client_gone"
"""What log and metrics say of it: nobody is left to read an answer. The number is nginx's."""


def note_gone(scope: Scope) -> None:
    """Leave the code for log and metrics."""
    scope.setdefault("state", {})["error"] = GONE_CODE


class CancelWhenGone:
    """Cancels a request whose client hangs up before the answer begins. Used inside of ``Limits``, which reads the body."""

    def __init__(self, app: ASGIApp) -> None:
        """Keep what is inside."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on; one without a body is over before anybody could go."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        body: list[Message] = [await receive()]
        answering = gone = False

        async def watch() -> Message:
            nonlocal gone
            while (message := await receive())["type"] != "http.disconnect":
                pass
            if not answering:
                gone = True
                task.cancel()
            return message

        watching = asyncio.create_task(watch())

        async def receiving() -> Message:
            return body.pop() if body else await asyncio.shield(watching)

        async def sending(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        except asyncio.CancelledError:
            if not gone or task.uncancel():
                raise
            note_gone(scope)
        finally:
            watching.cancel()
