"""API keys, compared in constant time."""

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_qwen_embeddings.server.errors import ApiError, refuse

OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/redoc", "/openapi.json"})
"""Paths that need no key: a process manager that asks for the state has none, nor has a browser that opens the docs."""

BEARER = Security(HTTPBearer(auto_error=False, description="One of the server's API keys."))
"""Only declares the scheme in the OpenAPI document; ``ApiKeys`` checks what was sent."""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


class ApiKeys:
    """Requires one of the keys as ``Authorization: Bearer``, unless there are none."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        # Digests have one length, so a comparison tells nothing about a key's length.
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on."""
        if scope["type"] != "http" or not self._digests or scope["path"] in OPEN_PATHS or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = ApiError(401, "send one of this server's API keys as 'Authorization: Bearer KEY'", "invalid_api_key")
        await refuse(error, scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # Compare with every key, so that the time does not tell which one matched.
        fits = [hmac.compare_digest(given, digest) for digest in self._digests]
        return kind.lower() == "bearer" and any(fits)
