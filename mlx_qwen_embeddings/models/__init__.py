"""The architectures that this package runs; importing this table imports no MLX."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT, QWEN3_TEMPLATE


@dataclass(frozen=True, slots=True)
class Family:
    """What holds for every model of an architecture, where its own files do not say otherwise.

    Attributes:
        module: Dotted name of the module with ``Args``, ``Model`` and ``sanitize``.
        pooling: Pooling when ``1_Pooling/config.json`` is absent.
        prompts: Prompts by role when ``config_sentence_transformers.json`` is absent.
        template: How an instruction is written in front of a text, with ``{instruction}`` in it.
        needs_end_token: Whether the vector is read off a closing token that must be there.
    """

    module: str
    pooling: Pooling
    prompts: Mapping[str, str] = field(default_factory=dict)
    template: str = "{instruction}"
    needs_end_token: bool = False


FAMILIES: dict[str, Family] = {
    "qwen3": Family(
        module="mlx_qwen_embeddings.models.qwen3",
        pooling="last",
        prompts={"query": QWEN3_PROMPT},
        template=QWEN3_TEMPLATE,
        needs_end_token=True,
    ),
    # sentence-transformers takes the mean too where a checkpoint names no pooling.
    "bert": Family(module="mlx_qwen_embeddings.models.bert", pooling="mean"),
}
"""By ``model_type`` of ``config.json``."""
