"""``mlx-qwen models``: list, describe, download and remove models."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.cli.common import (
    JsonOption,
    ModelDirOption,
    NamedModel,
    RevisionOption,
    YesOption,
    aligned,
    print_result,
)

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

    from mlx_qwen_embeddings.registry import ModelSpec

_SIZES = ("download", "on_disk", "memory_cpu", "memory_gpu")

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, download and remove models.")


@models.command("list")
def list_(*, model_dir: ModelDirOption = None, as_json: JsonOption = False) -> None:
    """List the models that have an alias, with their sizes on disk and in memory."""
    from mlx_qwen_embeddings.checkpoint.downloads import downloads
    from mlx_qwen_embeddings.registry import list_models

    found = downloads(model_dir)
    facts = [_facts(spec, found.get(_repository(spec))) for spec in list_models()]
    head = ["name", "weights", "dimensions", "tokens", "download", "on disk", "memory, CPU", "GPU"]
    print_result(facts, aligned([head, *map(_row, facts)], left=2), as_json=as_json)


def _row(facts: dict[str, Any]) -> list[str]:
    numbers = [f"{facts[name]:,}" if facts[name] else "" for name in ("dimensions", "max_length")]
    sizes = ["" if facts[name] is None else human_size(facts[name]) for name in _SIZES]
    return [facts["name"], facts["weights"], *numbers, *sizes]


@models.command()
def info(name: NamedModel, *, model_dir: ModelDirOption = None, as_json: JsonOption = False) -> None:
    """Show what is known about a model; some of it only once the model is downloaded."""
    from mlx_qwen_embeddings.checkpoint.downloads import downloads
    from mlx_qwen_embeddings.registry import resolve

    spec = resolve(name)
    found = downloads(model_dir).get(_repository(spec))
    facts = _facts(spec, found) | (_from_files(spec, model_dir) if spec.local or found else {})
    rows = [[name.replace("_", " "), _words(name, value)] for name, value in facts.items()]
    print_result(facts, aligned(rows, left=2), as_json=as_json)


def _words(name: str, value: Any) -> str:
    if name in _SIZES:
        return "none" if value is None else human_size(value)
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value or "none")


@models.command()
def download(name: NamedModel, *, revision: RevisionOption = None, model_dir: ModelDirOption = None) -> None:
    """Download a model unless it is on disk, and print its folder."""
    from mlx_qwen_embeddings.checkpoint.hub import open_folder
    from mlx_qwen_embeddings.registry import resolve

    typer.echo(open_folder(resolve(name), revision=revision, cache_dir=model_dir).path)


@models.command()
def remove(name: NamedModel, *, model_dir: ModelDirOption = None, yes: YesOption = False) -> None:
    """Delete all revisions of a downloaded model."""
    from mlx_qwen_embeddings.checkpoint import downloads
    from mlx_qwen_embeddings.registry import resolve

    spec = resolve(name)
    if spec.local:
        raise ValueError(f"{spec.source} is a folder of yours, or part of the package, not a download: delete it yourself")
    source = _repository(spec)
    found = downloads.downloads(model_dir).get(source)
    if found and not yes:
        typer.confirm(f"Delete {source} ({human_size(found.size_on_disk)}) in {found.repo_path}?", abort=True)
    typer.echo(f"removed {source}: {human_size(downloads.remove(source, model_dir))} freed")


def _repository(spec: "ModelSpec") -> str:
    return spec.source.partition(":")[0]  # what follows names one of several GGUF files


def _facts(spec: "ModelSpec", found: "CachedRepoInfo | None") -> dict[str, Any]:
    from mlx_qwen_embeddings.checkpoint.downloads import memory_estimate, stored_bytes

    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "source": spec.source,
        "weights": spec.weights,
        "dimensions": spec.dimensions,
        "max_length": spec.max_length,
        "download": spec.download_bytes,
        "on_disk": found.size_on_disk if found else stored_bytes(spec) if spec.local else None,
        "folder": str(found.repo_path) if found else spec.source if spec.local else None,
        "memory_cpu": memory_estimate(spec, "cpu"),
        "memory_gpu": memory_estimate(spec, "gpu"),
    }


def _from_files(spec: "ModelSpec", model_dir: Path | None) -> dict[str, Any]:
    from mlx_qwen_embeddings.checkpoint.hub import open_folder

    files = replace(open_folder(spec, offline=True, cache_dir=model_dir), known_prompts=spec.prompts)
    return {
        "dimensions": files.dimensions,
        "max_length": files.limit,
        "default_max_length": files.max_length,
        "type": files.config["model_type"],
        "pooling": files.pooling,
        "query_prompt": files.prompts["query"],
        "document_prompt": files.prompts["document"],
        "chat_template": files.chat_template is not None,
    }
