"""Run the server until it is told to stop, then finish the requests it accepted; write the log as JSON."""

import asyncio
import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import uvicorn

from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.middleware.limits import Traffic
from mlx_qwen_embeddings.server.settings import ServerSettings
from mlx_qwen_embeddings.settings import EngineSettings

logger = logging.getLogger(__name__)

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object: time, level, event, and what was passed as ``extra``; never a text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            # The place of the exception, not its message: that may quote a text.
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json(level: str) -> None:
    """Send everything this process logs to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "urllib3", "asyncio", "uvicorn"):  # they log every request, or every start twice
        logging.getLogger(name).setLevel(logging.WARNING)


class DrainingServer(uvicorn.Server):
    """Keeps answering while it drains: accepted requests are finished, and new ones get status 503."""

    def __init__(self, config: uvicorn.Config, traffic: Traffic, drain_seconds: float) -> None:
        super().__init__(config)
        self._traffic, self._drain_seconds = traffic, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and log the address."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                logger.info("listening", extra={"host": host, "port": port})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin to drain at the first signal, stop waiting at the second, and force the exit at a later one."""
        if self.should_exit or self._loop is None:
            self.should_exit = self.force_exit = True
        elif self._traffic.draining:
            self.config.timeout_graceful_shutdown = 0
            self.should_exit = True
        else:
            self._traffic.draining = True
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop)

    async def _drain(self) -> None:
        logger.info("draining", extra={"requests": self._traffic.in_progress})
        try:
            await asyncio.wait_for(self._traffic.idle.wait(), self._drain_seconds)
        except TimeoutError:
            logger.warning("draining timed out", extra={"requests": self._traffic.in_progress})
        self.should_exit = True


def serve(settings: ServerSettings, engines: EngineSettings) -> None:
    """Run the server; return after SIGTERM or Ctrl-C.

    Raises:
        UnknownModelError: When a model of the settings is unknown.
        ValueError: When the file of API keys holds none.
        OSError: When that file cannot be read, or the port is taken.
    """
    # By default MKL's threads spin for 200 ms after a batch, on cores that the event loop and the other lanes need: on two
    # busy cores that halved the throughput at 16 and 64 connections. Within a batch they have to spin: when they slept at
    # once, 8 texts took 150 ms on all-MiniLM instead of 40. MKL reads this when the first model is loaded.
    os.environ.setdefault("KMP_BLOCKTIME", "5")
    log_as_json(settings.log_level)
    app = create_app(settings, engines)
    if not (app.state.has_keys or settings.host in {"localhost", "::1"} or settings.host.startswith("127.")):
        logger.warning("no API keys: anyone who reaches this address can use the server", extra={"host": settings.host})
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = DrainingServer(config, app.state.traffic, settings.drain_seconds)
    try:
        server.run()
    except SystemExit as error:  # uvicorn exits like this when it cannot listen
        raise OSError(f"cannot listen on {settings.host} port {settings.port}: the log says why") from error
