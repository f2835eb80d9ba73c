"""The supervisor: starts one worker process per batch, classifies how it ended, and sets its limits."""
