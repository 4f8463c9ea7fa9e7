"""Check a model's files, and its vectors against published values."""

from mlx_qwen_embeddings.tools.verify.report import Check, VerifyReport
from mlx_qwen_embeddings.tools.verify.verification import verify

__all__ = ["Check", "VerifyReport", "verify"]
