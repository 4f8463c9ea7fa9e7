"""The outermost layer: gives each request an id, logs and counts it, and answers 500 where the code inside failed."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen_embeddings.server.errors import ApiError, refuse
from mlx_qwen_embeddings.server.metrics import Metrics
from mlx_qwen_embeddings.server.middleware.limits import GONE_CODE, GONE_STATUS

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

logger = logging.getLogger(__name__)


class Observe:
    """Watches every request from outside all other layers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, then log and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, start = 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("unhandled error", extra={"request_id": request_id, "path": scope["path"]})
            if status:
                raise
            message = f"an error inside the server; its log says more under the request id {request_id}"
            await refuse(ApiError(500, message, "internal_error"), scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        if state.get("error") == GONE_CODE:
            status = GONE_STATUS
        # All unknown paths share one label: otherwise a scanner could fill the memory with labels.
        known, pattern = scope["app"].openapi()["paths"], getattr(scope.get("route"), "path_format", "")
        endpoint = next((path for path in (scope["path"], pattern) if path in known), "other")
        self._metrics.count_request(endpoint, status, state.get("error"), seconds)
        details = {name: state[name] for name in ("request_id", "error", "model", "texts", "tokens") if name in state}
        quiet = endpoint in {"/health", "/ready", "/metrics"}
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra=details | {"method": scope["method"], "path": endpoint, "status": status, "seconds": round(seconds, 4)},
        )
