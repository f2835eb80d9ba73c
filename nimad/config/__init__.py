"""Configuration: defaults, files, environment and command line, and where each value comes from."""

from nimad.config.openclaw import OpenClaw, read_openclaw
from nimad.config.precedence import load
from nimad.config.settings import Settings, Verify

__all__ = ["OpenClaw", "Settings", "Verify", "load", "read_openclaw"]
