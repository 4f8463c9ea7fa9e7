"""``python -m mlx_qwen_embeddings`` is ``mlx-qwen``."""

from mlx_qwen_embeddings.cli import main

if __name__ == "__main__":
    main()
