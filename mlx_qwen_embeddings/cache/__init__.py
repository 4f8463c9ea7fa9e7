"""Caches of vectors, in memory and in a SQLite file. They know keys and vectors, and nothing of models or texts."""
