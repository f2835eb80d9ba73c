"""Messages of a rollback, for people and programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nimad.config import command
from nimad.config.openclaw import SQLITE_AGAIN, back_to_sqlite
from nimad.plural import number_of
from nimad.rollback.rollback import By, Rollback

#: Rows that a heading has under it.
_SHOWN = 5
_NOUNS = {
    "memory_nodes": ("memory", "memories"),
    "memory_edges": ("edge", "edges"),
    "memory_turns": ("turn", "turns"),
}


def lines(found: Rollback) -> Iterator[str]:
    """A rollback as it is printed."""
    yield f"SQLite:    {found.source}"
    yield f"LadybugDB: {found.target}"
    yield ""
    if found.before:
        yield f"It was rolled back on {found.before}; the target is {found.set_aside} now"
    elif found.applied:
        yield from done(found)
    else:
        yield from _would(found)
    yield ""
    yield from _way_on(found)


def _would(found: Rollback) -> Iterator[str]:
    if not found.writes:
        yield "SQLite holds everything that the target has: nothing is to be copied back"
    if found.added:
        yield f"To be copied back to SQLite: {_amount(found.added)}"
        yield from _examples(found.added)
    if found.changed:
        yield f"To be changed in SQLite, because the target's values are newer: {_amount(found.changed)}"
        yield from _examples(found.changed)
    if found.kept:
        yield f"To be kept in a file beside the target, because SQLite has no place for it: {_values(found)}"
        yield from _examples(found.kept)
    yield ""
    yield "Nothing was changed"


def done(found: Rollback) -> Iterator[str]:
    """What was done; no text of a memory."""
    if found.sqlite_backup:
        yield f"SQLite as it was before is in {found.sqlite_backup}"
    if found.added:
        renamed = f"; {number_of(found.renamed, 'row')} under a new id" if found.renamed else ""
        yield f"Copied back to SQLite: {_amount(found.added)}{renamed}"
    if found.changed:
        yield f"Changed in SQLite: {_amount(found.changed)}"
    for table, key, why in found.refused[:_SHOWN]:
        yield f"SQLite does not take {table} {key}: {why}"
    if len(found.refused) > _SHOWN:
        yield f"and {len(found.refused) - _SHOWN} more"
    if found.kept or found.refused:
        yield f"What SQLite has no place for is in {found.record}: {_values(found)}"
    if found.unindexed:
        yield f"nima-core's index of texts could not be brought up to date ({found.unindexed}); until it is rebuilt, "
        yield "its search in SQLite does not find what was copied back"
    yield f"Read back: SQLite holds everything {'else ' if found.kept or found.refused else ''}that the target has"
    yield f"Set aside: the target is {found.set_aside} now"


def _way_on(found: Rollback) -> Iterator[str]:
    where = ("--source", found.source, "--target", found.target)
    if found.obstacle:
        yield f"SQLite would take none of it: {found.obstacle}"
        return
    if not found.applied:
        holder = f" (PID {found.holder} has the target open)" if found.holder else ""
        yield f"To go back to SQLite, stop the agent{holder}, as with: openclaw gateway stop"
        yield f"and then: {command.line('rollback', *where, '--apply')}"
        return
    for change in back_to_sqlite(old_place=found.old_place):
        yield from change.text(_short(found.openclaw_file))
    yield "and then: openclaw gateway restart"
    yield f"No migration begins by itself before: {command.line('resume', '--target', found.target)}"


def _values(found: Rollback) -> str:
    return number_of(found.total(found.kept) + len(found.refused), "row or part of one", "rows or parts of rows")


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _amount(listed: By) -> str:
    rows = {table: each.count for table, each in listed.items()}
    words = [
        number_of(count, *_NOUNS.get(table, (f"row of {table}", f"rows of {table}"))) for table, count in rows.items()
    ]
    return ", ".join(words)


def _examples(listed: By) -> Iterator[str]:
    for table, each in listed.items():
        for key, what in each.first[:_SHOWN]:
            yield f"  {table} {key}{f': {what}' if what else ''}"
        if each.count > _SHOWN:
            yield f"  and {each.count - _SHOWN} more"


def to_json(found: Rollback) -> dict[str, Any]:
    """A rollback for programs."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(found).items()}
    lists = {
        name: {table: {"count": each.count, "first": each.first} for table, each in getattr(found, name).items()}
        for name in ("added", "changed", "kept")
    }
    return {**plain, **lists, "openclaw": SQLITE_AGAIN, "exit_code": int(found.exit_code)}
