"""Default paths, and the environment variables that change them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nimad.errors import UsageError

#: What one layer of the configuration says: field of ``Settings`` -> (value, where it comes from).
Given = dict[str, tuple[Any, str]]

DEFAULT: Final = "default"
COMMAND_LINE: Final = "command line"
ENVIRONMENT: Final = "environment "
BESIDE_SOURCE: Final = "beside the source"
BESIDE_TARGET: Final = "beside the target that was typed"

SOURCE_NAME: Final = "graph.sqlite"
TARGET_NAME: Final = "graph.ladybug"
LOG_NAME: Final = "migration.log"
OPENCLAW_FILE: Final = Path("~/.openclaw/openclaw.json")

VARIABLES: Final = {
    "NIMA_DB_PATH": "source",
    "NIMA_LADYBUG_DB": "target",
    "OPENCLAW_CONFIG_PATH": "openclaw_file",
}

#: Bytes of a path, with its end (limits.h).
PATH_MAX: Final = 4_096


def defaults(env: Mapping[str, str], home: Path) -> Given:
    """Given the environment and a home directory, name the source and OpenClaw's file.

    ``NIMA_HOME`` only moves the default: a source that a file names outright still wins over it.
    Target and log are not named here, because they stand beside whichever source is chosen in the end.
    """
    folder, origin = data_home(env, home)
    return {
        "source": (folder / "memory" / SOURCE_NAME, origin),
        "openclaw_file": (expand(OPENCLAW_FILE, home), DEFAULT),
    }


def data_home(env: Mapping[str, str], home: Path) -> tuple[Path, str]:
    """Return the folder that holds ``memory/``, and where that is said."""
    if chosen := env.get("NIMA_HOME"):
        return expand(chosen, home), f"{ENVIRONMENT}NIMA_HOME"
    if chosen := env.get("NIMA_DATA_DIR"):
        folder = expand(chosen, home)
        # nima-core's own programs set it to either of the two folders.
        return folder.parent if folder.name == "memory" else folder, f"{ENVIRONMENT}NIMA_DATA_DIR"
    return home / ".nima", DEFAULT


def from_environment(env: Mapping[str, str]) -> Given:
    """Return what the environment names outright. An empty variable counts as not set."""
    return {field: (env[name], f"{ENVIRONMENT}{name}") for name, field in VARIABLES.items() if env.get(name)}


def home_of(env: Mapping[str, str]) -> Path:
    """Return the user's home. Raise ``UsageError`` when neither HOME nor the password file knows it."""
    if named := env.get("HOME"):
        return Path(named)
    try:
        return Path.home()
    except RuntimeError:
        raise UsageError("this user has no home directory; set HOME and run again") from None


def expand(path: str | Path, home: Path | None = None) -> Path:
    """Return the path absolute and without ``~``, but with its symbolic links as they are.

    Absolute, because a service runs in ``/`` and a child may run elsewhere.
    """
    if len(str(path)) > PATH_MAX:
        raise UsageError(f"a path of {len(str(path))} characters, which no file can have; name another")
    parts = Path(path).parts
    if home is not None and parts[:1] == ("~",):
        return home.joinpath(*parts[1:]).absolute()
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise UsageError(f"{path}: there is no such home directory; write the path in full") from None


def shown(path: Path, home: Path) -> str:
    """Return the path as people write it, with ``~`` for their home."""
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
