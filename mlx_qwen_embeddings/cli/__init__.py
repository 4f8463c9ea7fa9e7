"""The command line ``mlx-qwen``. Each command imports what it needs when it runs, so that ``--help`` is fast."""

import sys
from collections.abc import Sequence

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.errors import MissingExtraError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: with 0 on success, 1 on failure, and 2 on wrong usage.

    Args:
        arguments: What follows the program's name; None takes the process's own arguments.
    """
    try:
        require("typer", "cli", "The command line")
    except MissingExtraError as error:
        sys.exit(f"mlx-qwen: {error}")
    from mlx_qwen_embeddings.cli.app import app

    app(arguments, prog_name="mlx-qwen")
