"""The supervisor: plans, spawns, waits, retries, counts, verifies, publishes. It never imports the engine."""
