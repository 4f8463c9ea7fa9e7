"""Follow the Dockerfile without Docker: install in an empty environment, start the server, check its health, stop it.

Steps that would change this machine are printed and skipped: Debian packages, which only arm64 needs, and creating the
user. When root runs this program, the server runs under that user's id.

Usage: ``python scripts/docker_steps.py``
"""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0
"""Seconds for the server to become healthy, and to stop."""


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its arguments on one line."""
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]


def install(steps: list[tuple[str, str]], place: Path) -> Path:
    """Follow the COPY and RUN instructions in a new environment, and return the folder of its programs."""
    source, programs = place / "src", place / "venv" / "bin"
    venv.create(place / "venv", with_pip=True)
    arguments = dict(rest.split("=") for word, rest in steps if word == "ARG")
    environment = os.environ | arguments | {"PATH": f"{programs}:{os.environ['PATH']}"}
    source.mkdir()
    for word, rest in steps:
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                folder = (ROOT / name).is_dir()
                copy = shutil.copytree if folder else shutil.copy
                copy(ROOT / name, source / target if folder else source)
        elif word == "RUN" and rest.startswith("pip "):
            print("RUN", rest, flush=True)
            subprocess.run(["/bin/sh", "-euc", rest], check=True, cwd=source, env=environment)
        elif word == "RUN" and "apt-get" in rest and platform.machine() == "x86_64":
            print("RUN", rest[:70], "...", flush=True)
            run_without_packages(rest, place, environment)
        elif word == "RUN":
            print("not run here:", rest[:70], "...", flush=True)
    return programs


def run_without_packages(command: str, place: Path, environment: dict[str, str]) -> None:
    """Run a step that should install no Debian packages on this machine.

    Raises:
        subprocess.CalledProcessError: When the step tries to install some; nothing is installed.
    """
    refusing = place / "refusing"
    refusing.mkdir()
    (refusing / "apt-get").write_text('#!/bin/sh\necho "apt-get is not run here" >&2\nexit 1\n', "utf-8")
    (refusing / "apt-get").chmod(0o755)
    path = {"PATH": f"{refusing}:{environment['PATH']}"}
    subprocess.run(["/bin/sh", "-euc", command], check=True, cwd=place, env=environment | path)


def container_user(number: int, place: Path, python: Path) -> dict[str, Any]:
    """Create the user's home and models folders in ``place``, and return ``Popen``'s arguments to run as that user."""
    folders = place / "home", place / "models"
    for folder in folders:
        folder.mkdir()
    if os.geteuid():
        print("not root here: the server does not run as the user", number, flush=True)
        return {}
    place.chmod(0o755)
    for folder in folders:
        os.chown(folder, number, number)
    user: dict[str, Any] = {"user": number, "group": number, "extra_groups": []}
    try:
        subprocess.run([python, "-c", ""], check=True, cwd=folders[0], capture_output=True, **user)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the user {number} cannot run {python.resolve()}, so root runs the server ({error})", flush=True)
        return {}
    return user


def serve(steps: list[tuple[str, str]], place: Path, programs: Path) -> int:
    """Start the server as the container would, with nano on a free port. Stop it once healthy; return its exit status."""
    last = dict(steps)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = dict(part.split("=", 1) for part in shlex.split(last["ENV"]))
    changed = {
        "MLX_QWEN_HOST": "127.0.0.1",
        "MLX_QWEN_PORT": port,
        "MLX_QWEN_MODEL": "nano",
        "HF_HOME": str(place / "models"),
    }
    folders = {"HOME": str(place / "home"), "PATH": f"{programs}:{os.environ['PATH']}"}
    environment = os.environ | given | changed | folders
    user = container_user(int(last["USER"]), place, programs / "python")
    command = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    health = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    check = [programs / health[0], *health[1:]]
    print(shlex.join(command), flush=True)
    server = subprocess.Popen([programs / command[0], *command[1:]], cwd=place / "home", env=environment, **user)
    try:
        end = time.monotonic() + PATIENCE
        while subprocess.run(check, check=False, capture_output=True, env=environment).returncode:
            if server.poll() is not None or time.monotonic() > end:
                print("the server never became healthy", flush=True)
                return 1
        print("healthy:", shlex.join(health), f"(user {Path(f'/proc/{server.pid}').stat().st_uid})", flush=True)
        server.send_signal(signal.Signals[last["STOPSIGNAL"]])
        return server.wait(PATIENCE)
    finally:
        server.kill()


def main() -> int:
    """Follow the steps, and return the server's exit status."""
    steps = instructions((ROOT / "Dockerfile").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as place:
        status = serve(steps, Path(place), install(steps, Path(place)))
    print("the container's steps work" if not status else f"the server ended with status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
