"""``mlx-qwen serve``."""

from pathlib import Path
from typing import Annotated

import typer

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.cli.common import ModelDirOption


def serve(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any of the server's and the engines' settings.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 unless you say so.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000.")] = None,
    model: Annotated[str | None, typer.Option(help="The default model; small.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub; the main branch.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: auto, cpu or gpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Compute type: auto, float32 or bfloat16.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Most tokens of a batch; 2048, on a GPU 16384.")] = None,
    lanes: Annotated[int | None, typer.Option(help="Streams that compute side by side on a CPU; one a core.")] = None,
    queue_tokens: Annotated[int | None, typer.Option(help="Tokens that may wait in the queue; 1048576.")] = None,
    cache_bytes: Annotated[int | None, typer.Option(help="Memory for cached vectors; 256 MiB, 0 for none.")] = None,
    cache_ttl: Annotated[float | None, typer.Option(help="Seconds that a cached vector is good for; no end.")] = None,
    cache_path: Annotated[Path | None, typer.Option(help="File, or folder for it, that keeps vectors.")] = None,
    cache_path_bytes: Annotated[int | None, typer.Option(help="Most bytes of that file; 4 GiB.")] = None,
    cache_precision: Annotated[str | None, typer.Option(help="Type of numbers in it: float32 or float16.")] = None,
    max_loaded_models: Annotated[int | None, typer.Option(help="Most models in memory at once; 2.")] = None,
    max_model_bytes: Annotated[int | None, typer.Option(help="Most bytes of weights in memory; no bound.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never ask the Hub for a model.")] = None,
    model_dir: ModelDirOption = None,
    models: Annotated[str | None, typer.Option(help="Models that may be asked for, comma-separated; all aliases.")] = None,
    warm: Annotated[str | None, typer.Option(help="Models loaded at the start, comma-separated; the default one.")] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="File with API keys, one a line.")] = None,
    cors_origins: Annotated[str | None, typer.Option(help="Web origins whose pages may ask, comma-separated.")] = None,
    allow_token_ids: Annotated[
        bool | None, typer.Option("--allow-token-ids", help="Take ids of the model's own tokenizer as input.")
    ] = None,
    max_texts: Annotated[int | None, typer.Option(help="Most texts of a request; 2048.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Most bytes of a body; 16 MiB.")] = None,
    max_total_bytes: Annotated[int | None, typer.Option(help="Most bytes of all bodies in hand; 256 MiB.")] = None,
    max_requests: Annotated[int | None, typer.Option(help="Most requests in hand; 512.")] = None,
    load_wait: Annotated[float | None, typer.Option(help="Seconds a request waits for a model to load; 30.")] = None,
    request_timeout: Annotated[float | None, typer.Option(help="Seconds a request may take; 300.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Seconds to finish in after SIGTERM; 30.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve embeddings over HTTP, as OpenAI's API does."""
    flags = {name: value for name, value in locals().items() if name not in {"config", "model_dir"}}
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "server", "The server")
    from mlx_qwen_embeddings.server.run import serve as run
    from mlx_qwen_embeddings.server.settings import ServerSettings

    run(*ServerSettings.load(config, cache_dir=model_dir, **flags))
