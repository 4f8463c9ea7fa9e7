"""The command line ``mlx-qwen``: one module a command, each of which imports what it needs when it runs."""

import sys
from collections.abc import Sequence

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.errors import MissingExtraError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 when all went well, 1 on a failure, 2 on wrong usage.

    Args:
        arguments: What follows the program's name; None takes the process's own.
    """
    try:
        require("typer", "cli", "The command line")
    except MissingExtraError as error:
        sys.exit(f"mlx-qwen: {error}")
    from mlx_qwen_embeddings.cli.app import app  # noqa: PLC0415 - it needs typer, which is an extra

    app(arguments, prog_name="mlx-qwen")
