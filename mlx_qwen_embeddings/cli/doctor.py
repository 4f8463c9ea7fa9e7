"""``mlx-qwen doctor``: what this machine computes with, and whether it is as fast as it can be."""

import json
import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from mlx_qwen_embeddings._files import human_size

EXTRAS = {
    "langchain": "langchain-core",
    "llama-index": "llama-index-core",
    "chat-template": "jinja2",
    "convert": "mlx-lm",
    "parquet": "pyarrow",
    "plot": "matplotlib",
    "search": "lancedb",
    "server": "fastapi",
}


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """Say which device, type and BLAS are in use, and measure them for a second."""
    facts = {"package": _version("mlx-qwen-embeddings"), "python": sys.version.split()[0], "system": platform.platform()}
    facts |= _computing() | _storage() | {f"extra {extra}": _version(name) for extra, name in EXTRAS.items()}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {'none' if value is None else value}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _computing() -> dict[str, Any]:
    from mlx_qwen_embeddings.compute.mlx.backend import choose_backend, measure  # noqa: PLC0415 - it imports MLX
    from mlx_qwen_embeddings.compute.mlx.blas import cores  # noqa: PLC0415 - as the line above

    backend = choose_backend()
    gflops, bandwidth = measure(backend)
    return {
        "mlx": _version("mlx"),
        "device": backend.device,
        "cores": cores(),
        "dtype": backend.dtype,
        "BLAS": backend.blas or ("none of this package's loading" if backend.device == "cpu" else "not used on a GPU"),
        "matrix products": f"{gflops:.0f} GFLOP/s",
        "memory reads": f"{bandwidth:.0f} GB/s",
    }


def _storage() -> dict[str, Any]:
    from mlx_qwen_embeddings.checkpoint.hub import cache_state  # noqa: PLC0415 - as the line below
    from mlx_qwen_embeddings.compute.memory import available_memory  # noqa: PLC0415 - quick to come, but --help need not wait
    from mlx_qwen_embeddings.settings import EngineSettings  # noqa: PLC0415 - as the line above

    settings, available = EngineSettings.from_env(), available_memory()
    folder, offline = cache_state(settings.cache_dir, offline=settings.offline)
    return {
        "free memory": None if available is None else human_size(available),
        "default model": settings.model,
        "downloaded models": str(folder),
        "offline": offline,
        "persistent cache": None if settings.cache_path is None else str(settings.cache_path),
    }
