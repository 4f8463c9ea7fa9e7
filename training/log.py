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
    """Return the lines; the last one may have been cut off, and is none then."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def forget_after(path: Path, step: int) -> None:
    """Take out what an earlier run did after its last checkpoint.

    Args:
        path: The log; it need not be there.
        step: Of the checkpoint.
    """
    if path.exists():
        partial = path.with_suffix(".partial")
        kept = [json.dumps(line) + "\n" for line in read(path) if line["step"] <= step]
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
