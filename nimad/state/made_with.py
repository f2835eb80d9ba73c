"""The settings that a target was made with; they hold for the next run unless it is told otherwise.

Or the commands that we print, which name the target, would make one that the agent cannot open, or cannot find.
"""

from dataclasses import dataclass
from pathlib import Path

from nimad.state import target_state
from nimad.state.paths import Files


@dataclass(frozen=True)
class MadeWith:
    """`readers`: interpreters of the agent; `storage_version`: of the file that is there, 0 where nothing tells."""

    also: tuple[str, ...] = ()
    readers: tuple[Path, ...] = ()
    storage_version: int = 0


def of(target: Path) -> MadeWith:
    """By the state file of the run that is under way or was interrupted, or else of the finished target."""
    files = Files(target)
    data = target_state.read(files) if files.staging.exists() else target_state.of_target(files)
    versions = data.get("versions", {})
    try:
        return MadeWith(
            also=tuple(target_state.names_of(data)),
            readers=tuple(Path(reader["python"]) for reader in versions.get("readers", ())),
            storage_version=int(versions.get("engine", {}).get("storage_version", 0)),
        )
    except (TypeError, ValueError, KeyError, AttributeError):  # somebody wrote in it
        return MadeWith()
