"""The engine: which package answers to the import name `ladybug`, and whether it is the right one."""

import importlib
import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad import packages
from nimad.errors import EngineError
from nimad.packages import MODULE, REQUIREMENT, pip, unloadable

#: Releases whose file format and COPY behaviour this program was measured with: from, and below.
VERSION_RANGE = ((0, 22), (0, 23))
_NAMESAKE = "ladybug-core"


@dataclass(frozen=True)
class Engine:
    """The engine that was found. `storage_version`: the format of the files it writes."""

    name: str
    version: str
    storage_version: int
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def import_engine() -> tuple[ModuleType, Engine]:
    """Import the engine. Raises `EngineError` with what was found, where, and the command that mends it."""
    folder = packages.folder()
    if folder is None:
        raise EngineError(f"LadybugDB not available. Install: {pip()} install '{REQUIREMENT}'")
    if _installed(_NAMESAKE) and _is_namesake(folder):
        raise EngineError(_namesake_message(folder))
    try:
        module = importlib.import_module(MODULE)
        database = module.Database
        version, storage = str(database.get_version()), int(database.get_storage_version())
    except AttributeError:
        raise EngineError(_namesake_message(folder)) from None
    except Exception as error:
        if _installed(_NAMESAKE):
            raise EngineError(_namesake_message(folder)) from error
        raise EngineError(unloadable(f"{type(error).__name__}: {error}")) from error
    engine = Engine(MODULE, version, storage, folder)
    if not in_range(version):
        raise EngineError(
            f"LadybugDB {version} in {folder} is outside the range this program writes with. "
            f"Install: {pip()} install '{REQUIREMENT}'"
        )
    return module, engine


def _is_namesake(folder: str) -> bool:
    """Whether the package names no database: read, not run, because importing ladybug-core makes `~/.ladybug`."""
    try:
        return "Database" not in Path(folder, "__init__.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def in_range(version: str) -> bool:
    """Whether a release number such as `0.22.0` lies in `VERSION_RANGE`."""
    try:
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return False
    low, high = VERSION_RANGE
    return low <= numbers < high


def _namesake_message(folder: str) -> str:
    version = _installed(_NAMESAKE)
    found = f"{_NAMESAKE} {version}, a weather-file library," if version else "another package"
    return (
        f"LadybugDB not available: the import name '{MODULE}' in {folder} belongs to {found} and not to the "
        f"database. Install: {pip()} uninstall -y {_NAMESAKE} && "
        f"{pip()} install --force-reinstall '{REQUIREMENT}'"
    )


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
