"""Dockerfile and compose file: that they fit each other, the settings' defaults and pyproject.toml."""

import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlx_qwen_embeddings.server.settings import ServerSettings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from docker_steps import instructions  # noqa: E402 - found where it was just said

STEPS = instructions((ROOT / "Dockerfile").read_text("utf-8"))
SAID = dict(STEPS)
VARIABLES = dict(part.split("=", 1) for part in shlex.split(SAID["ENV"]))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    return found


def test_every_backend_is_an_extra_and_cpu_the_default() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (install,) = (rest for word, rest in STEPS if word == "RUN" and rest.startswith("pip"))
    named = install.split("[")[1].split("]")[0].split(",")
    assert SAID["ARG"] == "BACKEND=cpu"
    assert named.pop() == "${BACKEND}"
    assert {*named, "cpu", "cuda12", "cuda13"} <= set(extras)


def test_nothing_runs_as_root_and_models_are_in_the_volume() -> None:
    words = [word for word, _ in STEPS]
    assert SAID["USER"].isdecimal()
    assert int(SAID["USER"]) > 0
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert SAID["VOLUME"] == VARIABLES["HF_HOME"]
    assert f"{VARIABLES['MLX_QWEN_PORT']}/health" in SAID["HEALTHCHECK"]
    assert SAID["EXPOSE"] == VARIABLES["MLX_QWEN_PORT"]


def test_compose_publishes_on_this_machine_alone_and_waits_for_the_drain(compose: dict[str, Any]) -> None:
    embeddings, prometheus = compose["services"]["embeddings"], compose["services"]["prometheus"]
    assert [*embeddings["ports"], *prometheus["ports"]] == ["127.0.0.1:8000:8000", "127.0.0.1:9090:9090"]
    assert embeddings["build"]["args"]["BACKEND"] == "${BACKEND:-cpu}"
    name, _, target = embeddings["volumes"][0].partition(":")
    assert name in compose["volumes"]
    assert target == SAID["VOLUME"]
    assert int(embeddings["stop_grace_period"].removesuffix("s")) > ServerSettings().drain_seconds


def test_prometheus_reads_the_server(compose: dict[str, Any]) -> None:
    (mounted,) = compose["services"]["prometheus"]["configs"]
    config = yaml.safe_load(compose["configs"][mounted["source"]]["content"])
    (job,) = config["scrape_configs"]
    assert set(job) == {"job_name", "static_configs"}  # its path is /metrics unless another is named
    assert job["static_configs"] == [{"targets": [f"embeddings:{SAID['EXPOSE']}"]}]
    assert mounted["target"] == "/etc/prometheus/prometheus.yml"
