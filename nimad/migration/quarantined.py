"""What is in quarantine beside a target, finished or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad import command, rights
from nimad.errors import CannotWriteError, NotAllowedError, UsageError
from nimad.migration import state
from nimad.migration.files import Files
from nimad.migration.origin import not_there
from nimad.migration.tally import Tally
from nimad.worker.quarantine import entries


@dataclass(frozen=True)
class Quarantined:
    """The entries of one quarantine file, as they stand in it."""

    target: Path
    file: Path
    entries: Sequence[dict[str, Any]]
    lacking: str | None = None  # what to say where the file does not hold all that was set aside


def quarantined(target: Path) -> Quarantined:
    """The quarantine of the run that is under way or was interrupted, or else of the finished target.

    Raises `UsageError` where there is neither, and an error that names the file where it cannot be read.
    """
    files = Files(target)
    if files.staging.exists():
        return Quarantined(target, files.quarantining, _entries(files.quarantining))
    if not target.exists():
        raise not_there(target)
    # Not renamed yet where the run was killed right before.
    late = not files.quarantine.exists() and files.quarantining.exists()
    file = files.quarantining if late else files.quarantine
    found = _entries(file)
    return Quarantined(target, file, found, Tally.of(file, state.of_target(files)).lacking_in(file, target))


def _entries(file: Path) -> list[dict[str, Any]]:
    if file.exists() and not file.is_file():
        raise CannotWriteError(f"{file} is no plain file; move it away")
    try:
        return list(entries(file))
    except PermissionError:
        owner = rights.name_of(file.stat().st_uid)
        raise NotAllowedError(f"{file} may not be read by this user; run it as {owner}") from None


def matching(found: Quarantined, key: str, table: str | None) -> list[dict[str, Any]]:
    """The entries of one id, of one table if it is named. Raises `UsageError` when there is none."""
    hits = [entry for entry in found.entries if str(entry["id"]) == key and table in (None, entry["table"])]
    if hits:
        return hits
    if not found.entries:
        raise UsageError(found.lacking or f"nothing is in quarantine beside {found.target}")
    where = f" of {table}" if table else ""
    listing = command.line("quarantine", "list", "--target", found.target)
    raise UsageError(f"no id {key}{where} in {found.file}; list what is there with: {listing}")
