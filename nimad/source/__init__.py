"""SQLite: which tables, which rows, in which order, and what each value becomes.

Nothing in here writes, locks or changes the source. Only :mod:`nimad.source.arrow` needs pyarrow, and only
workers import it, so that the supervisor can survey and plan while staying small.
"""
