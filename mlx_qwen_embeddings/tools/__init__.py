"""What `mlx-qwen` offers beside embedding: verify, convert, evaluate, bench and fit; the engine does not need them."""
