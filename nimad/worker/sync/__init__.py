"""One round of sync in a worker: detect changed rows, apply them, and confirm them in a fresh process."""
