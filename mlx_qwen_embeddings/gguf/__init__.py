"""GGUF files, llama.cpp's format: header, configuration, tokenizer, weights. Only ``weights`` imports MLX."""
