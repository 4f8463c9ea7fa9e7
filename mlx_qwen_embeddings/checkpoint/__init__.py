"""From a model's name to files that can be trusted: find or download them, check them, read all but the weights."""
