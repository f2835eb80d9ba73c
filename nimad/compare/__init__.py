"""Comparison of a target with a memory in SQLite, at any time; both are only read."""
