"""The migration: prepare, load, verify, publish, finish. It never imports the engine."""
