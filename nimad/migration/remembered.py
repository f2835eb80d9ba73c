"""What the run that made a target was told: it holds for the next one, unless that is told otherwise.

Or the commands that we print, which name the target, would make one that the agent cannot open, or cannot find.
"""

from dataclasses import dataclass
from pathlib import Path

from nimad.migration import state
from nimad.migration.files import Files


@dataclass(frozen=True)
class Remembered:
    """`readers`: interpreters of the agent; `storage_version`: of the file that is there, 0 where nothing tells."""

    also: tuple[str, ...] = ()
    readers: tuple[Path, ...] = ()
    storage_version: int = 0


def of(target: Path) -> Remembered:
    """By the state file of the run that is under way or was interrupted, or else of the finished target."""
    files = Files(target)
    data = state.read(files) if files.staging.exists() else state.of_target(files)
    versions = data.get("versions", {})
    try:
        return Remembered(
            also=tuple(state.names_of(data)),
            readers=tuple(Path(reader["python"]) for reader in versions.get("readers", ())),
            storage_version=int(versions.get("engine", {}).get("storage_version", 0)),
        )
    except (TypeError, ValueError, KeyError, AttributeError):  # somebody wrote in it
        return Remembered()
