"""LadybugDB: opening with explicit limits, declaring, loading, counting, reading back, compacting.

Only worker processes import this room: the engine is native code, and a crash in it must cost one batch and
not the run.
"""
