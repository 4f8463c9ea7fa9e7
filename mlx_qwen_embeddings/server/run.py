"""Run the server until it is told to stop, and then until what it accepted is done."""

import asyncio
import ipaddress
import logging
import os
from types import FrameType

import uvicorn

from mlx_qwen_embeddings.server.app import create_app
from mlx_qwen_embeddings.server.logs import log_as_json
from mlx_qwen_embeddings.server.middleware.limits import Traffic
from mlx_qwen_embeddings.server.settings import ServerSettings
from mlx_qwen_embeddings.settings import EngineSettings

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """Answers on while it drains: what was accepted ends, and new requests are told to go elsewhere."""

    def __init__(self, config: uvicorn.Config, traffic: Traffic, drain_seconds: float) -> None:
        """Keep what there is to wait for."""
        super().__init__(config)
        self._traffic, self._drain_seconds = traffic, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                logger.info("listening", extra={"host": host, "port": port})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin to drain; a second signal ends the wait, and one while it ends already leaves everything as it is."""
        if self.should_exit or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        if self._traffic.draining:
            self.config.timeout_graceful_shutdown = 0
            self.should_exit = True
            return
        self._traffic.draining = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        logger.info("draining", extra={"requests": self._traffic.in_hand})
        if not await self._traffic.drained(self._drain_seconds):
            logger.warning("drained not in time", extra={"requests": self._traffic.in_hand})
        self.should_exit = True


def serve(settings: ServerSettings, engines: EngineSettings) -> None:
    """Run the server; returns after SIGTERM or Ctrl-C.

    Raises:
        UnknownModelError: When a model of the settings means nothing.
        ValueError: When the file of API keys holds none.
        OSError: When that cannot be read, or the port is taken.
    """
    let_cores_go()
    log_as_json(settings.log_level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells of its own start, twice
    app = create_app(settings, engines)
    if not settings.keys() and not _is_loopback(settings.host):
        logger.warning("without API keys everybody who reaches this address may ask", extra={"host": settings.host})
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
    except SystemExit as error:  # what uvicorn makes of it
        message = f"nothing can listen on {settings.host} port {settings.port}: the log says why"
        raise OSError(message) from error


def let_cores_go() -> None:
    """Let MKL's threads sleep soon after a batch, unless the operator says otherwise.

    They would spin for 200 ms, on the cores that the event loop and the other lanes need: on two busy cores that halved
    the throughput at 16 and 64 connections. Within a batch they have to spin: if they slept at once, 8 texts would take 150
    ms on all-MiniLM instead of 40. MKL reads the variable when it is loaded, which is with the first model.
    """
    os.environ.setdefault("KMP_BLOCKTIME", "5")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
