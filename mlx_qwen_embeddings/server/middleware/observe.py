"""Around every request: an id, a line in the log, the metrics, and an answer even where a defect left none."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_qwen_embeddings.server.errors import ApiError, refuse
from mlx_qwen_embeddings.server.logs import set_header
from mlx_qwen_embeddings.server.metrics import Metrics
from mlx_qwen_embeddings.server.middleware.disconnect import GONE_CODE, GONE_STATUS

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)

logger = logging.getLogger(__name__)


class Observe:
    """The outermost layer of the server."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Keep where to count."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and tell how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status, start = 0, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                set_header(message, "x-request-id", request_id)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            logger.exception("defect", extra={"request_id": request_id, "path": scope["path"]})
            if status:
                raise
            message = f"a defect of the server; its log says more beside the request id {request_id}"
            await refuse(ApiError(500, message, "internal_error"), scope, receive, sending)
        finally:
            self._tell(scope, status, time.perf_counter() - start)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        if state.get("error") == GONE_CODE:
            status = GONE_STATUS
        # What no route knows has one name together, so that scanners cannot fill the memory.
        known, form = scope["app"].openapi()["paths"], getattr(scope.get("route"), "path_format", "")
        endpoint = next((path for path in (scope["path"], form) if path in known), "other")
        self._metrics.ended(endpoint, status, state.get("error"), seconds)
        facts = {name: state[name] for name in ("request_id", "error", "model", "texts", "tokens") if name in state}
        quiet = endpoint in {"/health", "/ready", "/metrics"}
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra=facts | {"method": scope["method"], "path": endpoint, "status": status, "seconds": round(seconds, 4)},
        )
