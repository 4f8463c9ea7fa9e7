"""Run the tests, verify and benchmark a real model, and write the results to one file for a bug report.

Usage: ``python scripts/machine_report.py --model small --output machine-report.md`` (``make mac`` does that)
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parent.parent


class Step(NamedTuple):
    """The result of a command."""

    ok: bool
    out: str
    seconds: float

    @property
    def last(self) -> str:
        """The last line of the output that is not empty."""
        return next((line.strip(" =") for line in reversed(self.out.splitlines()) if line.strip()), "no output")


def run(command: Sequence[str]) -> Step:
    """Run a module with this interpreter. Its standard error is shown as it comes."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    return Step(ended.returncode == 0, ended.stdout, time.perf_counter() - start)


def machine() -> dict[str, str]:
    """Return facts about this machine by name, leaving out unknown ones."""
    facts = {
        "system": f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.platform(),
        "processor": _sysctl("machdep.cpu.brand_string") or platform.machine(),
        "GPU cores": _gpu_cores(),
        "memory": _memory(),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("mlx", "mlx-qwen-embeddings")},
        "commit": _output(["git", "rev-parse", "--short", "HEAD"]),
    }
    return {name: value for name, value in facts.items() if value}


def _memory() -> str:
    size = _sysctl("hw.memsize")
    return f"{int(size) / 2**30:.0f} GB" if size else ""


def _gpu_cores() -> str:
    if sys.platform != "darwin":
        return ""
    lines = _output(["system_profiler", "SPDisplaysDataType"]).splitlines()
    return next((line.split(":")[1].strip() for line in lines if "Total Number of Cores" in line), "")


def _sysctl(name: str) -> str:
    return _output(["sysctl", "-n", name]) if sys.platform == "darwin" else ""


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""  # the report leaves the line out


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    escaped = ([str(cell).replace("|", "\\|") for cell in cells] for cells in (headers, *rows))
    lines = [f"| {' | '.join(cells)} |" for cells in escaped]
    return [lines[0], "|---" * len(headers) + "|", *lines[1:]]


def verified(step: Step) -> list[str]:
    """Return the section on ``verify``."""
    report = _json(step)
    if report is None:
        return [f"`verify` failed: {step.last}"]
    rows = [("yes" if row["ok"] else "**no**", row["name"], row["expected"], row["found"]) for row in report["rows"]]
    return table(("passed", "check", "expected", "found"), rows)


def measured(step: Step) -> list[str]:
    """Return the section on ``bench``."""
    report = _json(step)
    if report is None:
        return [f"`bench` failed: {step.last}"]
    rows = [
        (each["batch_size"], f"{each['texts_per_second']:.1f}", f"{each['tokens_per_second']:,.0f}")
        for each in report["throughput"]
    ]
    clients = [
        (each["clients"], f"{each['queries_per_second']:.1f}", *(f"{each[name]:.1f}" for name in ("p50", "p95", "p99")))
        for each in report["latency"]
    ]
    return [
        f"On the {report['device']}, in {report['dtype']}, loaded in {report['load_seconds']:.1f} s.",
        "",
        *table(("texts per call", "texts/s", "tokens/s"), rows),
        "",
        *table(("clients", "queries/s", "p50 ms", "p95 ms", "p99 ms"), clients),
    ]


def _json(step: Step) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(step.out)
    except ValueError:
        return None
    return found


def page(model: str, facts: dict[str, str], tests: Step, verify: Step, bench: Step) -> str:
    """Return the report."""
    outcome = [
        ("tests", "passed" if tests.ok else "**failed**", tests.last, f"{tests.seconds:.0f}"),
        (f"`verify {model}`", "passed" if verify.ok else "**failed**", "", f"{verify.seconds:.0f}"),
        (f"`bench {model}`", "ran" if bench.ok else "**failed**", "", f"{bench.seconds:.0f}"),
    ]
    lines = [f"# `{model}` on {facts['processor']}", "", *table(("machine", ""), facts.items()), ""]
    lines += [*table(("step", "outcome", "last line", "seconds"), outcome), "", "## Verify", "", *verified(verify), ""]
    lines += ["## Speed", "", *measured(bench), ""]
    return "\n".join(lines)


def main() -> None:
    """Run all three, even if one fails."""
    parser = argparse.ArgumentParser(
        description="Write the results of tests, verify and bench on this machine to one file."
    )
    parser.add_argument("--model", default="small", help="model to verify and measure; downloaded if needed")
    parser.add_argument("--output", type=Path, default=PROJECT / "machine-report.md")
    parser.add_argument("--seconds", default="60", help="how long to measure")
    parser.add_argument("--tests", default="tests", help="which tests")
    given = parser.parse_args()
    print(f"1 of 3: the tests, some minutes ({given.tests})", flush=True)
    ignored = [f"--ignore=tests/{folder}" for folder in ("cluster", "parity", "stores")]
    tests = run(["pytest", "-q", "-m", "not heavy", "-n", "2", "--dist", "loadfile", *ignored, given.tests])
    print(f"   {tests.last}\n2 of 3: verify {given.model}", flush=True)
    verify = run(["mlx_qwen_embeddings", "verify", given.model, "--json"])
    print(f"   {'passed' if verify.ok else 'failed'}\n3 of 3: bench, about {given.seconds} seconds", flush=True)
    bench = run(["mlx_qwen_embeddings", "bench", "--model", given.model, "--seconds", given.seconds, "--json"])
    given.output.write_text(page(given.model, machine(), tests, verify, bench), "utf-8")
    print(f"{given.output}: please open an issue of the kind 'Machine report' and paste this file into it")
    sys.exit(not (tests.ok and verify.ok and bench.ok))


if __name__ == "__main__":
    main()
