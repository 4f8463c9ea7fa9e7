"""GGUF files: header, configuration and tokenizer; their tensors are read in `compute.weights`."""
