"""Turn token ids into vectors: load weights, cut batches, run the model. Nothing here sees text or frameworks."""
