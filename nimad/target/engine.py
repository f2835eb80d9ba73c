"""The engine: which package provides the import name, and whether it is the right one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from nimad.engines import probe_script
from nimad.engines.packages import MODULE, in_range, install, missing, pip, unloadable
from nimad.errors import EngineError

#: The oldest pyarrow that makes lists of fixed size with NULLs among them.
LEAST_ARROW = 15


@dataclass(frozen=True)
class Engine:
    """The engine that was found. `storage_version`: the format of the files it writes."""

    name: str
    version: str
    storage_version: int
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def import_engine(name: str = MODULE) -> tuple[ModuleType, Engine]:
    """Import the engine. Raises `EngineError` with what was found, where, and the command that fixes it."""
    module, facts = probe_script.identify(name)
    if module is None:
        raise EngineError(_why_not(facts))
    engine = Engine(name, facts["version"], facts["storage_version"], facts["folder"])
    if not in_range(engine.version):
        raise EngineError(
            f"LadybugDB {engine.version} in {engine.folder} is outside the range this program writes with. "
            f"Install: {install(name)}"
        )
    return module, engine


def _why_not(facts: Mapping[str, Any]) -> str:
    name, problem = facts["module"], facts["problem"]
    if problem == "missing":
        return missing(name)
    if problem not in ("namesake", "another"):
        return unloadable(problem, name)
    version = facts["namesake"]
    found = f"{probe_script.NAMESAKE} {version}, a weather-file library," if version else "another package"
    return (
        f"LadybugDB not available: the import name '{name}' in {facts['folder']} belongs to {found} and not to the "
        f"database. Install: {pip()} uninstall -y {probe_script.NAMESAKE} && {install(name, again=True)}"
    )


def has_arrow() -> bool:
    """Whether a pyarrow is here that can be used; an old or a broken one is as good as none."""
    try:
        import pyarrow as pa
    except Exception:  # noqa: BLE001 - whatever a broken package raises while it is imported
        return False
    return int(pa.__version__.split(".")[0]) >= LEAST_ARROW
