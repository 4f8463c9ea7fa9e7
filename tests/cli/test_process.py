"""The command in its own process: what it imports, and what it shows on a terminal and in a pipe."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mlx_qwen_embeddings", *map(str, arguments)]


@pytest.mark.parametrize("name", ["embed", "compare", "index", "search", "models", "bench"])
def test_the_help_of_a_command_imports_nothing_slow(name: str) -> None:
    program = (
        "import sys\n"
        "from mlx_qwen_embeddings.cli import main\n"
        f"try:\n    main(['{name}', '--help'])\n"
        "except SystemExit:\n"
        "    print(sorted({'numpy', 'mlx', 'rich', 'pyarrow', 'lancedb', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def on_a_terminal(*arguments: object) -> tuple[str, str]:
    """Run with stderr on a terminal; return the output and what the terminal showed."""
    own, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=its, text=True)
    os.close(its)
    out, _ = process.communicate()
    shown = b""
    try:
        while piece := os.read(own, 65536):
            shown += piece
    except OSError:
        pass  # on Linux this means that the other side has closed
    os.close(own)
    assert process.returncode == 0
    return out, shown.decode()


def test_progress_is_shown_on_a_terminal_and_not_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"line {number}\n" for number in range(120)), "utf-8")
    arguments = ("embed", "-m", "nano", "-i", tmp_path / "in.txt")
    out, shown = on_a_terminal(*arguments, "-o", tmp_path / "out.npy")
    assert "120/120" in shown
    assert "text/s" in shown
    assert out == f"{tmp_path / 'out.npy'}: 120 vectors of 384 dimensions\n"
    out, shown = on_a_terminal(*arguments)
    assert "120/120" in shown
    assert len(out.splitlines()) == 360
    done = subprocess.run(command(*arguments, "-o", tmp_path / "piped.npy"), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_single_text_has_no_progress_bar() -> None:
    assert on_a_terminal("embed", "-m", "nano", "hello")[1] == ""
