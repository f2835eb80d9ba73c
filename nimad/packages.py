"""The engine as a package: what pip calls it, where it would be imported from. Nothing here imports it."""

import importlib.util
import sys
from pathlib import Path

MODULE = "ladybug"
REQUIREMENT = "ladybug>=0.22,<0.23"


def folder() -> str | None:
    """Where the engine's import name leads; None where it leads nowhere."""
    try:
        spec = importlib.util.find_spec(MODULE)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ())] or [str(Path(spec.origin or "?").parent)]
    return str(places[0])


def pip() -> str:
    return f"{sys.executable} -m pip"


def unloadable(how: str) -> str:
    """What to say of an engine that is there and cannot be imported."""
    return (
        f"LadybugDB in {folder()} cannot be loaded ({how}). "
        f"Install it again: {pip()} install --force-reinstall '{REQUIREMENT}'"
    )
