"""Comparison in a worker: rows of SQLite against rows of a target, or one target against another."""
