"""The embedders to compare, with one interface. Each runs in its own process, so only its own imports count."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Peer(Protocol):
    """Turn texts into unit vectors, with the query prompt if asked for."""

    def embed(self, texts: Sequence[str], *, query: bool) -> Vectors:
        """Return vectors of shape (texts, d)."""
        ...


class Ours:
    """This package, without its cache."""

    def __init__(self, model: str, without: str = "", device: Literal["cpu", "gpu"] = "cpu") -> None:
        """Open the model. ``without`` names shortcuts to switch off; see ``switches``."""
        from benchmarks.switches import switch_off
        from mlx_qwen_embeddings import EmbeddingEngine

        switch_off(without.split("+") if without else [])
        self.engine = EmbeddingEngine(model, cache_bytes=0, device=device).warmup()

    def embed(self, texts: Sequence[str], *, query: bool) -> Vectors:
        embed = self.engine.embed_queries if query else self.engine.embed_documents
        return embed(texts, max_length=min(512, self.engine.max_length))

    def together(self, texts: Sequence[str]) -> Vectors:
        """Embed each text in a task of its own."""

        async def ask() -> list[Vectors]:
            return await asyncio.gather(*(self.engine.aembed_query(text) for text in texts))

        return np.stack(asyncio.run(ask()))


class SentenceTransformers:
    """sentence-transformers on torch."""

    def __init__(self, model: str, dtype: str = "float32", device: str = "cpu") -> None:
        """Open the model."""
        import torch
        from sentence_transformers import SentenceTransformer

        how = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        self.model = SentenceTransformer(model, device=device, model_kwargs=how)
        self.model.max_seq_length = min(512, self.model.max_seq_length or 512)

    def embed(self, texts: Sequence[str], *, query: bool) -> Vectors:
        encode: Callable[..., Any] = self.model.encode_query if query else self.model.encode_document
        return np.asarray(encode(list(texts), normalize_embeddings=True, show_progress_bar=False), dtype=np.float32)


class _MLX:
    """The base of both MLX peers: token ids as sentence-transformers makes them."""

    def __init__(self, model: str) -> None:
        import json
        from pathlib import Path

        from tokenizers import Tokenizer

        folder = Path(model)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.prompt = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["query"]

    def ids(self, texts: Sequence[str], *, query: bool) -> list[list[int]]:
        start = self.prompt if query else ""
        return [encoding.ids[:512] for encoding in self.tokenizer.encode_batch([start + text for text in texts])]


class PlainMLXLM(_MLX):
    """mlx-lm without changes: ``model.model(ids)`` and the last hidden state."""

    def __init__(self, model: str, batch: int = 1) -> None:
        """Open the model. A batch of 1 runs each text by itself."""
        super().__init__(model)
        from mlx_lm.utils import load_model

        self.model, self.batch = load_model(_path(model))[0], int(batch)

    def embed(self, texts: Sequence[str], *, query: bool) -> Vectors:
        import mlx.core as mx

        ids, vectors = self.ids(texts, query=query), []
        for start in range(0, len(ids), self.batch):
            rows = ids[start : start + self.batch]
            longest = max(map(len, rows))
            hidden = self.model.model(mx.array([row + [0] * (longest - len(row)) for row in rows]))
            last = hidden[mx.arange(len(rows)), mx.array([len(row) - 1 for row in rows])]
            vectors.append(np.array(last / mx.linalg.norm(last, axis=-1, keepdims=True)))
        return np.concatenate(vectors)


class MLXEmbeddings(_MLX):
    """mlx-embeddings without changes, in its padded batches of 32."""

    def __init__(self, model: str) -> None:
        """Open the model."""
        super().__init__(model)
        from mlx_embeddings.utils import load_model

        loaded = load_model(_path(model))
        self.model = loaded[0] if isinstance(loaded, tuple) else loaded

    def embed(self, texts: Sequence[str], *, query: bool) -> Vectors:
        import mlx.core as mx

        ids, vectors = self.ids(texts, query=query), []
        for start in range(0, len(ids), 32):
            rows = ids[start : start + 32]
            longest = max(map(len, rows))
            padded = mx.array([row + [0] * (longest - len(row)) for row in rows])
            mask = mx.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            vectors.append(np.array(self.model(padded, attention_mask=mask).text_embeds))
        return np.concatenate(vectors)


def _path(model: str) -> Any:
    from pathlib import Path

    return Path(model)


PEERS: dict[str, Callable[..., Peer]] = {
    "ours": Ours,
    "sentence-transformers": SentenceTransformers,
    "mlx-lm": PlainMLXLM,
    "mlx-embeddings": MLXEmbeddings,
}
"""Peers by the name before the colon, as in ``sentence-transformers:bfloat16``."""
