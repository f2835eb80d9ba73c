"""The entries of a target's quarantine, finished or not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.config import command
from nimad.errors import CannotWriteError, NotAllowedError, UsageError
from nimad.host import rights
from nimad.state import target_state
from nimad.state.paths import Files
from nimad.state.provenance import not_there
from nimad.state.quarantine import entry_of, lines
from nimad.state.quarantine_summary import QuarantineSummary, lacking_of, say_lacking


@dataclass(frozen=True)
class QuarantineEntries:
    """One quarantine file, which may be of any length: its lines are read one at a time, and anew each time.

    Reading raises an error that names the file where that cannot be read.
    """

    target: Path
    file: Path
    made: Mapping[str, Any] | None = None  # what the run says that made the target

    def lines(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Each entry, without the row where that is long, and the line that it stands in."""
        with _told(self.file):
            for line in lines(self.file):
                if (entry := entry_of(line)) is not None:
                    yield entry, line

    def lacking(self, count: int) -> str | None:
        """What to say where the file does not hold all that was set aside, but so many entries."""
        return say_lacking(lacking_of(self.made, count), count, self.file, self.target)

    def tally(self) -> QuarantineSummary:
        with _told(self.file):
            return QuarantineSummary.of(self.file, self.made)


def quarantined(target: Path) -> QuarantineEntries:
    """The quarantine of the run that is under way or was interrupted, or else of the finished target.

    Raises `UsageError` where there is neither.
    """
    files = Files(target)
    if files.staging.exists():
        return QuarantineEntries(target, files.quarantining)
    if not target.exists():
        raise not_there(target)
    # Not renamed yet where the run was killed right before.
    late = not files.quarantine.exists() and files.quarantining.exists()
    file = files.quarantining if late else files.quarantine
    return QuarantineEntries(target, file, target_state.of_target(files))


@contextmanager
def _told(file: Path) -> Iterator[None]:
    if file.exists() and not file.is_file():
        raise CannotWriteError(f"{file} is no plain file; move it away")
    try:
        yield
    except PermissionError:
        owner = rights.name_of(file.stat().st_uid)
        raise NotAllowedError(f"{file} may not be read by this user; run it as {owner}") from None


def matching(found: QuarantineEntries, key: str, table: str | None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The entries of one id, of one table if it is named. Raises `UsageError` when there is none."""
    count, is_there = 0, False
    for entry, line in found.lines():
        count += 1
        if str(entry["id"]) == key and table in (None, entry["table"]):
            is_there = True
            yield entry, line
    if is_there:
        return
    if not count:
        raise UsageError(found.lacking(0) or f"nothing is in quarantine beside {found.target}")
    where = f" of {table}" if table else ""
    listing = command.line("quarantine", "list", "--target", found.target)
    raise UsageError(f"no id {key}{where} in {found.file}; list what is there with: {listing}")
