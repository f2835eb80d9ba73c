"""Environment variables that name files: what ``NIMA_DB_PATH`` means, and which variable an error stems from."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from nimad.config import defaults
from nimad.config.defaults import Given
from nimad.config.target_names import CHOSEN
from nimad.host.disk import FileKind, kind_of

if TYPE_CHECKING:
    from nimad.config.settings import Settings

_DB_PATH: Final = "NIMA_DB_PATH"
_BY_DB_PATH: Final = f"{defaults.ENVIRONMENT}{_DB_PATH}"
#: Endings of LadybugDB files, and of those of Kuzu, which it descends from.
_ENDINGS: Final = (".lbug", ".ladybug", ".ladybugdb", ".lbdb", ".kuzu", ".kuzudb", ".kz")


def settle(given: Given, home: Path) -> Given:
    """Given what the environment names, take a LadybugDB file that ``NIMA_DB_PATH`` names for the target.

    Parts of NIMA mean the SQLite memory by that variable, and others, its README among them, the LadybugDB file.
    """
    path, origin = given.get("source", ("", ""))
    if origin != _BY_DB_PATH or not _is_ladybug(defaults.expand(path, home)):
        return given
    return {"target": (path, origin)} | {name: found for name, found in given.items() if name != "source"}


def _is_ladybug(path: Path) -> bool:
    """Whether a file is LadybugDB's: by what it holds, or by its ending where that tells nothing."""
    try:
        kind = kind_of(path)
    except (OSError, ValueError):
        kind = None
    return path.suffix.lower() in _ENDINGS if kind is None else kind is FileKind.LADYBUG


def notes(named: Given, given: Given, home: Path) -> tuple[str, ...]:
    """Return what is to be said of `named`, what the environment names, where `given` is what holds in the end."""
    path, origin = named.get("source", ("", ""))
    if origin != _BY_DB_PATH or given["source"][1] == _BY_DB_PATH or settle(named, home) == named:
        return ()
    source, by = given["source"]
    rest = f"the source is {defaults.expand(source, home)} ({by})"
    if given["target"][1] == _BY_DB_PATH:
        return (f"{_DB_PATH} names a LadybugDB file, so {defaults.expand(path, home)} is the target; {rest}",)
    if by == defaults.COMMAND_LINE or defaults.expand(given["target"][0], home) == defaults.expand(path, home):
        return ()
    return (f"{_DB_PATH} names a LadybugDB file, {defaults.expand(path, home)}, which is not the source; {rest}",)


def explained(text: str, settings: "Settings") -> str:
    """Return an error's text with the variable that names the file it speaks of, where one does."""
    for name in ("target", "source", "openclaw_file"):
        path, origin = str(getattr(settings, name)), settings.origin(name)
        chosen = origin.startswith(CHOSEN) and Path(path).parent == settings.source.parent
        if chosen or origin == defaults.BESIDE_SOURCE:
            origin = settings.origin("source")
        if origin.startswith(defaults.ENVIRONMENT) and path in text:
            return f"{text}; {path} comes from {origin.removeprefix(defaults.ENVIRONMENT)}"
    return text
