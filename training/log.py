"""What a run writes down as it goes: one JSON object a line."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

DIGITS = 5


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Write a line, its numbers rounded."""
    rounded = {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in line.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")
    logger.info("%s", ", ".join(f"{name} {value}" for name, value in rounded.items()))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def forget_after(path: Path, step: int) -> None:
    """Take out what an earlier run did after its last checkpoint.

    Args:
        path: The log; it need not be there.
        step: Of the checkpoint.
    """
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")
