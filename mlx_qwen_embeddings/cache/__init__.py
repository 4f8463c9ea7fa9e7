"""Caches of vectors, in memory and in a SQLite file; what a vector depends on is in the key, and nothing else."""
