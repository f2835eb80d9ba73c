"""Rollback: the agent goes back to SQLite. `writer.py` is the only module that writes to a memory in SQLite.

It knows SQLite and the file in which a worker wrote what is to be carried back; not the engine, and not why.
"""
