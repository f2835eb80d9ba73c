"""What is in quarantine beside a target, finished or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.errors import UsageError
from nimad.migration.files import Files
from nimad.migration.origin import not_there
from nimad.worker.quarantine import entries


@dataclass(frozen=True)
class Quarantined:
    """The entries of one quarantine file, as they stand in it."""

    file: Path
    entries: Sequence[dict[str, Any]]


def quarantined(target: Path) -> Quarantined:
    """The quarantine of the run that is under way or was interrupted, or else of the finished target.

    Raises `UsageError` where there is neither.
    """
    files = Files(target)
    if files.staging.exists():
        return Quarantined(files.quarantining, list(entries(files.quarantining)))
    if not target.exists():
        raise not_there(target)
    file = files.quarantine if files.quarantine.exists() else files.quarantining  # not renamed yet: killed right before
    return Quarantined(file, list(entries(file)))


def matching(found: Quarantined, key: str, table: str | None) -> list[dict[str, Any]]:
    """The entries of one id, of one table if it is named. Raises `UsageError` when there is none."""
    hits = [entry for entry in found.entries if str(entry["id"]) == key and table in (None, entry["table"])]
    if not hits:
        where = f" of {table}" if table else ""
        raise UsageError(f"no id {key}{where} in {found.file}; list what is there with: nimad quarantine list")
    return hits
