"""Read GGUF files but for their weights: header and metadata. ``compute.weights`` reads the weights."""
