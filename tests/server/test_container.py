"""Dockerfile and compose.yaml fit each other, the settings' defaults and pyproject.toml."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlx_qwen_embeddings.server.models import Models
from mlx_qwen_embeddings.server.settings import ServerSettings
from mlx_qwen_embeddings.settings import EngineSettings
from scripts.docker_steps import container_user, instructions, run_without_packages

ROOT = Path(__file__).resolve().parents[2]
STEPS = instructions((ROOT / "Dockerfile").read_text("utf-8"))
LAST = dict(STEPS)
"""The last instruction of each kind."""
VARIABLES = dict(part.split("=", 1) for part in shlex.split(LAST["ENV"]))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    return found


def test_every_backend_is_an_extra_and_cpu_is_the_default() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (install,) = (rest for word, rest in STEPS if word == "RUN" and rest.startswith("pip"))
    named = install.split("[")[1].split("]")[0].split(",")
    assert LAST["ARG"] == "BACKEND=cpu"
    assert named.pop() == "${BACKEND}"
    assert {*named, "cpu", "cuda12", "cuda13"} <= set(extras)


def test_the_server_does_not_run_as_root_and_models_are_in_the_volume() -> None:
    words = [word for word, _ in STEPS]
    assert LAST["USER"].isdecimal()
    assert int(LAST["USER"]) > 0
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert LAST["VOLUME"] == VARIABLES["HF_HOME"]
    assert LAST["EXPOSE"] == VARIABLES["MLX_QWEN_PORT"]


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_asks_the_configured_port_and_no_proxy(status: int | None, expected: int) -> None:
    command = json.loads(LAST["HEALTHCHECK"].partition("CMD ")[2])
    asked: list[str] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status or 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = str(server.server_port if status else 1)
        # Nothing listens at the proxy's address.
        variables = {"MLX_QWEN_PORT": port, "http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
        done = subprocess.run([sys.executable, *command[1:]], check=False, capture_output=True, env=variables, timeout=60)
        server.shutdown()
        thread.join()
    assert (done.returncode, asked) == (expected, ["/health"] if status else [])


def test_compose_serves_only_the_named_model_and_shows_where_keys_go(compose: dict[str, Any]) -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    assert compose["services"]["embeddings"]["environment"] == {"MLX_QWEN_MODELS": "${MODEL:-small}"}
    server, _ = ServerSettings.load(environ={"MLX_QWEN_MODELS": "nano"})
    assert Models(server, EngineSettings()).default == "nano"
    shown = yaml.safe_load(
        re.sub(r"^( *)# (?=MLX_QWEN_API_KEYS|authorization|  credentials)", r"\1", text, flags=re.MULTILINE)
    )
    assert "MLX_QWEN_API_KEYS" in shown["services"]["embeddings"]["environment"]
    (job,) = yaml.safe_load(shown["configs"]["prometheus"]["content"])["scrape_configs"]
    assert set(job["authorization"]) == {"credentials"}


def test_compose_needs_one_more_line_for_a_gpu() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    shown = yaml.safe_load(re.sub(r"^( *)# (?=gpus)", r"\1", text, flags=re.MULTILINE))
    assert shown["services"]["embeddings"]["gpus"] == "all"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="on other machines the step installs OpenBLAS")
def test_the_step_for_debian_packages_does_nothing_on_x86_64(tmp_path: Path) -> None:
    (step,) = (rest for word, rest in STEPS if word == "RUN" and "apt-get" in rest)
    run_without_packages(step, tmp_path, os.environ | {"BACKEND": "cpu"})


def test_a_step_that_installs_debian_packages_fails_without_installing_them(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_without_packages("if [ 1 = 1 ]; then apt-get update && touch done; fi", tmp_path, dict(os.environ))
    assert not (tmp_path / "done").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_server_is_started_as_the_user_that_owns_the_models(tmp_path: Path) -> None:
    number = int(LAST["USER"])
    with tempfile.TemporaryDirectory() as name:  # other users cannot enter pytest's own folders
        place = Path(name)
        user = container_user(number, place, Path("/bin/sh"))
        subprocess.run(["/bin/sh", "-c", "touch models/mine home/mine"], check=True, cwd=place, **user)
        assert {(place / folder / "mine").stat().st_uid for folder in ("models", "home")} == {number}
        assert subprocess.run(["/bin/sh", "-c", "touch others"], check=False, cwd=place, **user).returncode


def test_without_python_for_the_user_the_server_runs_as_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert container_user(int(LAST["USER"]), tmp_path, tmp_path / "absent") == {}
    assert LAST["USER"] in capsys.readouterr().out


def test_docker_run_leaves_time_to_drain() -> None:
    (seconds,) = re.findall(r"docker run .*--stop-timeout (\d+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert int(seconds) > ServerSettings().drain_seconds


def test_compose_publishes_on_this_machine_only_and_leaves_time_to_drain(compose: dict[str, Any]) -> None:
    embeddings, prometheus = compose["services"]["embeddings"], compose["services"]["prometheus"]
    assert [*embeddings["ports"], *prometheus["ports"]] == ["127.0.0.1:8000:8000", "127.0.0.1:9090:9090"]
    assert embeddings["build"]["args"]["BACKEND"] == "${BACKEND:-cpu}"
    name, _, target = embeddings["volumes"][0].partition(":")
    assert name in compose["volumes"]
    assert target == LAST["VOLUME"]
    assert int(embeddings["stop_grace_period"].removesuffix("s")) > ServerSettings().drain_seconds


def test_prometheus_reads_the_server(compose: dict[str, Any]) -> None:
    (mounted,) = compose["services"]["prometheus"]["configs"]
    config = yaml.safe_load(compose["configs"][mounted["source"]]["content"])
    (job,) = config["scrape_configs"]
    assert set(job) == {"job_name", "static_configs"}  # the default path is /metrics
    assert job["static_configs"] == [{"targets": [f"embeddings:{LAST['EXPOSE']}"]}]
    assert mounted["target"] == "/etc/prometheus/prometheus.yml"
