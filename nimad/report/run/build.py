"""Building a run report from run history, state file, quarantine and files."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nimad.errors import ExitCode, UsageError
from nimad.report.run import parse
from nimad.report.run.model import COMPLETE, LISTED, MovedValue, RunReport
from nimad.source.schema import TARGET_TABLES
from nimad.source.sqlite_file import SourceFile
from nimad.state import target_state
from nimad.state.paths import Files
from nimad.state.provenance import not_there, source_of
from nimad.state.quarantine_entries import quarantined
from nimad.state.run_history_reader import Migration


def account(target: Path, migration: Migration | None, *, latest: bool) -> RunReport:
    """Gather what there is to telling. `latest`: whether the files that are there now are this migration's.

    Raises `UsageError` where there is neither a record nor a target.
    """
    files = Files(target)
    made = target_state.read(files) if files.staging.exists() else target_state.of_target(files)
    if migration is None and not made:
        raise (
            not_there(target)
            if not target.exists()
            else UsageError(f"nothing tells how {target} was made: by --replace, or by another program")
        )
    now = made if latest else {}
    told = parse.of_record(migration) if migration else parse.of_state(made)
    listing = _quarantine(target) if latest else _elsewhere(told)
    counts = told.pop("counts")
    entries = listing.get("aside_in_all", 0)
    moved = [_moved(table, counts, listing.get("whole", {})) for table in TARGET_TABLES if table in counts]
    listing.pop("whole", None)
    source = str(told.get("source") or source_of(target) or "")
    return RunReport(
        **{
            **told,
            **listing,
            "source": source,
            "target": str(target),
            "moved": moved,
            "later": parse.later(now) if told["outcome"] == COMPLETE else {},
            "sizes": {**told.get("sizes", {}), **(_sizes_now(Path(source), files) if latest else {})},
            "exit_code": told["exit_code"] if told["exit_code"] is not None or not entries else ExitCode.QUARANTINED,
        }
    )


def _moved(table: str, counts: Mapping[str, tuple[Any, int]], whole: Mapping[str, int]) -> MovedValue:
    of, done = counts[table]
    return MovedValue(table, int(of) if isinstance(of, int) else None, int(done), whole.get(table, 0))


def _quarantine(target: Path) -> dict[str, Any]:
    try:
        found = quarantined(target)
    except UsageError:  # neither a target nor an unfinished one
        return {}
    tally = found.tally()
    return {
        "quarantine_file": str(found.file),
        "aside": tally.first[:LISTED],
        "aside_in_all": tally.entries,
        "lacking": tally.lacking_in(found.file, target) or "",
        "whole": tally.counts,
    }


def _elsewhere(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a migration whose target gave way to another: its quarantine went with it."""
    aside = told.get("aside_in_all", 0)
    return {"aside_in_all": aside, "lacking": "They stand beside the backup of that target." if aside else ""}


def _sizes_now(source: Path, files: Files) -> dict[str, int | None]:
    there = files.target if files.target.exists() else files.staging
    sizes: dict[str, int | None] = {"source_now": None, "target_now": None}
    with suppress(OSError, ValueError):  # a path that somebody wrote
        sizes["source_now"] = SourceFile(source).size()
    with suppress(OSError):
        sizes["target_now"] = there.stat().st_size + sum(log["bytes"] for log in target_state.logs_of(there).values())
    return sizes
