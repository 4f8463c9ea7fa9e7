"""Check a model folder, and its vectors against published values."""

from mlx_qwen_embeddings.tools.verify.report import VerifyReport
from mlx_qwen_embeddings.tools.verify.verification import verify

__all__ = ["VerifyReport", "verify"]
