"""PostgreSQL with pgvector from a wheel, with its data and its socket in one folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a server and yield its address."""
    import pgserver

    server: Any = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        server.psql("CREATE EXTENSION vector;")
        yield server.get_uri()
    finally:
        server.cleanup()
