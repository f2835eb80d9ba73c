"""One job from stdin: opens, does it, answers one JSON line, exits. Retries, sleeps and decides nothing."""
