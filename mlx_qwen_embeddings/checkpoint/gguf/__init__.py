"""Read the header and the metadata of GGUF files; ``compute.weights`` reads their weights."""
