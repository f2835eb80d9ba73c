"""Words into calls, errors into exit codes."""

from nimad.cli.main import main

__all__ = ["main"]
