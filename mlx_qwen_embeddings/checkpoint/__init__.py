"""From a model name to files that can be trusted: download, checks, configuration, fingerprint. It computes nothing."""
