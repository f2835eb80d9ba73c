"""nimad moves an AI agent's NIMA memory from SQLite into LadybugDB and loses nothing on the way.

>>> import nimad
>>> result = nimad.migrate(nimad.Settings(source=Path("~/.nima/memory/graph.sqlite")))  # doctest: +SKIP

The names below are loaded when they are first used: a worker process imports this package too, and needs none
of them.
"""

from typing import TYPE_CHECKING, Any

from nimad._version import VERSION

if TYPE_CHECKING:
    from nimad.config import Settings, Verify
    from nimad.errors import NimadError
    from nimad.events.result import Outcome, Result
    from nimad.events.run import Event
    from nimad.host.rights import become
    from nimad.migration.run import migrate

__version__ = VERSION

__all__ = ["Event", "NimadError", "Outcome", "Result", "Settings", "Verify", "__version__", "become", "migrate"]

_HOMES = {
    "Event": "nimad.events.run",
    "NimadError": "nimad.errors",
    "Outcome": "nimad.events.result",
    "Result": "nimad.events.result",
    "Settings": "nimad.config",
    "Verify": "nimad.config",
    "become": "nimad.host.rights",
    "migrate": "nimad.migration.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nimad' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
