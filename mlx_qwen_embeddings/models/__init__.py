"""The architectures, one per module, and the layers they share. Importing this table does not import MLX."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_qwen_embeddings.options import Pooling
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT, QWEN3_TEMPLATE


@dataclass(frozen=True, slots=True)
class Family:
    """The defaults of an architecture, for models whose own files do not say otherwise.

    Attributes:
        module: Dotted name of the module with ``Args``, ``Model`` and ``sanitize``.
        pooling: Pooling if there is no ``1_Pooling/config.json``.
        prompts: Prompts by role if there is no ``config_sentence_transformers.json``.
        template: What to put in front of a text for an instruction; contains ``{instruction}``.
        needs_end_token: Whether the vector is read from an end token, which must then be there.
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
    # sentence-transformers also takes the mean if a checkpoint names no pooling.
    "bert": Family(module="mlx_qwen_embeddings.models.bert", pooling="mean"),
}
"""Families by ``model_type`` in ``config.json``."""
