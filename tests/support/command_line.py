"""Run the command line in this process."""

from typer.testing import CliRunner

from mlx_qwen_embeddings.cli.app import app


def run(*arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]:
    """Run ``mlx-qwen`` and return its exit status, output and errors."""
    result = CliRunner().invoke(app, [*map(str, arguments)], prog_name="mlx-qwen", input=stdin)
    return result.exit_code, result.stdout, result.stderr
