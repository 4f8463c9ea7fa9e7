"""Token ids in, vectors out: loading weights, batching rows and running a model; it knows no text."""
