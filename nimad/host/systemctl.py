"""Queries to systemctl."""

import os
import subprocess
from collections.abc import Mapping


def said(*words: str, timeout_s: float | None = None) -> str:
    """What it prints. Raises `OSError` where there is none, and `subprocess.TimeoutExpired`."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["systemctl", *words], check=False, capture_output=True, timeout=timeout_s, env=environment)
    return done.stdout.decode(errors="replace")


def shown(*words: str, timeout_s: float | None = None) -> Mapping[str, str]:
    """Properties, as `show` prints them: each ends with a line feed.

    What a user's service says of itself is among them, and may have whatever else Python takes for the end of a line.
    """
    lines = said(*words, timeout_s=timeout_s).split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)
