"""The vectors of a job, part after part."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.bulk.parts import Parts, remove
from mlx_qwen_embeddings.bulk.sources import Source
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.errors import EmbeddingFailedError, InputTooLongError
from mlx_qwen_embeddings.options import EmbedOptions, Precision
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from mlx_qwen_embeddings.prompts import Role


def compute(parts: Parts, source: Source, engine: EmbeddingEngine, role: Role, options: EmbedOptions) -> int:
    """Embed what is missing; give the number of rows that were there."""
    done = parts.done()
    skipped = min(done * parts.size, parts.rows)
    texts = islice(source.texts(), skipped, None)
    try:
        with bar(parts.rows, skipped, show=options.show_progress) as shown:
            for number, block in enumerate(blocks(engine, texts, parts.size, role, options), done):
                parts.write(number, block)
                shown.update(len(block))
    except (InputTooLongError, EmbeddingFailedError) as error:
        place = f"{source.name}, after the {skipped:,} rows that were done" if skipped else source.name
        error.args = (f"{place}: {error}",)
        raise
    finally:
        if parts.rows and not parts.has(0):
            remove(parts.folder)  # a run that never got anywhere leaves nothing
    return skipped


def blocks(
    engine: EmbeddingEngine, texts: Iterator[str], size: int, role: Role, options: EmbedOptions
) -> Iterator[NDArray[np.float32]]:
    """Embed any number of texts, ``size`` at a time."""
    call: Any = asdict(replace(options, show_progress=False))
    if role == "document":
        yield from engine.stream_documents(texts, block_size=size, **call)
        return
    while block := list(islice(texts, size)):
        yield engine.embed_queries(block, **call)


def quantized(vectors: Iterator[NDArray[np.float32]], dimensions: int, precision: Precision) -> Iterator[NDArray[Any]]:
    """Give the blocks in the precision asked for, after an empty one that shows their width and type."""
    ranges = unit_ranges(dimensions)
    for block in chain([np.empty((0, dimensions), np.float32)], vectors):
        yield quantize(block, precision, ranges)


def bar(total: int, done: int, *, show: bool) -> Any:
    """Draw a bar with the time left, which counts what this run does alone."""
    from tqdm.auto import tqdm  # noqa: PLC0415 - it takes a moment that short jobs need not pay

    return tqdm(total=total, initial=done, desc="Embedding", unit="text", disable=not show, smoothing=0.1)
