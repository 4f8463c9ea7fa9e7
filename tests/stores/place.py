"""What the stores of both frameworks have in common."""

from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, uuid5

from tests.stores.passages import Passage

COLLECTION = "passages"


class Place(NamedTuple):
    """Where a store is: a folder, or the address of a database server."""

    folder: Path
    address: str = ""


def identifier(row: int) -> str:
    """Give a passage's id in a store; Qdrant wants UUIDs."""
    return str(uuid5(NAMESPACE_OID, str(row)))


def metadata(row: int, passage: Passage) -> dict[str, Any]:
    return {"row": row, "page": passage.page, "part": passage.part}
