"""PostgreSQL with pgvector, out of a wheel, in a folder of its own and on a socket in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a server and give its address."""
    import pgserver

    server: Any = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        server.psql("CREATE EXTENSION vector;")
        yield server.get_uri()
    finally:
        server.cleanup()
