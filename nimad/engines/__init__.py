"""Engines: which package of LadybugDB is in which interpreter, and which of them writes."""
