"""Test the report that owners of other machines send: one file, whatever failed."""

import subprocess
import sys
from pathlib import Path

import pytest

import mlx_qwen_embeddings
from tests.support.checkpoints import NANO_END

pytestmark = pytest.mark.heavy

SCRIPT = Path(mlx_qwen_embeddings.__file__).parents[1] / "scripts" / "machine_report.py"


def report(folder: Path, *arguments: str) -> "tuple[subprocess.CompletedProcess[str], str]":
    command = [sys.executable, str(SCRIPT), "--output", str(folder / "report.md"), "--seconds", "0.1", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended, (folder / "report.md").read_text("utf-8")


def test_tests_verify_and_bench_are_in_one_file(tmp_path: Path) -> None:
    ended, page = report(tmp_path, "--model", "nano", "--tests", "tests/test_prompts.py")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("please open an issue of the kind 'Machine report' and paste this file into it\n")
    assert "| tests | passed |" in page
    assert "| `verify nano` | passed |" in page
    assert f"| yes | end token | <\\|endoftext\\|> ({NANO_END}) |" in page
    assert "| texts per call | texts/s | tokens/s |\n|---|---|---|\n| 1 |" in page
    assert str(Path.home()) not in page


def test_failures_are_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    ended, page = report(tmp_path, "--model", "small", "--tests", "tests/nothing.py")
    assert ended.returncode == 1
    assert "| tests | **failed** |" in page
    assert "| `verify small` | **failed** |" in page
    assert "`bench` failed" in page


def test_the_issue_form_exists() -> None:
    form = SCRIPT.parents[1] / ".github" / "ISSUE_TEMPLATE" / "machine-report.yml"
    assert "name: Machine report" in form.read_text("utf-8")
