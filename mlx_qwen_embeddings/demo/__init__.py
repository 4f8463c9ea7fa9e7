"""Five questions answered by meaning, offline, with LangChain and LlamaIndex: ``python -m mlx_qwen_embeddings.demo``."""
