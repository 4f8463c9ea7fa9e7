"""The log of a run: one JSON object per line."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

DIGITS = 5


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line, with numbers rounded."""
    rounded = {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in line.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")
    logger.info("%s", ", ".join(f"{name} {value}" for name, value in rounded.items()))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines, without the last one if it was cut off."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def forget_after(path: Path, step: int) -> None:
    """Remove what an earlier run logged after its last checkpoint.

    Args:
        path: The log; it need not exist.
        step: The checkpoint's step.
    """
    if path.exists():
        partial = path.with_suffix(".partial")
        kept = [json.dumps(line) + "\n" for line in read(path) if line["step"] <= step]
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
