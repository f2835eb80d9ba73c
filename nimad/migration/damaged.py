"""A source some of whose pages are damaged: what can be read of it goes through, what cannot is listed.

The readable rows are copied into a clean SQLite file beside the target, and the run reads that one. It is made anew
by each run and thrown away at its end; the source itself is never written to.
"""

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from nimad.config import Settings
from nimad.disk import sqlite_pieces
from nimad.errors import DiskError, SourceDamagedError, SourceError
from nimad.migration import machine
from nimad.migration.events import Listener, Salvaged
from nimad.migration.files import Files
from nimad.source import salvage
from nimad.source.file import SourceFile
from nimad.source.ranges import FIRST_KEY, LAST_KEY, shown
from nimad.source.rows import Reject
from nimad.source.survey import Survey, survey

#: Words of `quick_check`.
_NOT_OF_ROWS = ("index", " value in ", "returns error code", "malformed", "failed to get page")


@dataclass(frozen=True)
class Readable:
    """The file that a run reads, what it holds, and what of the memory it lacks."""

    source: SourceFile
    survey: Survey
    salvaged: bool = False  # a copy of what can be read: what it lacks may still be in an unfinished target
    rejects: Sequence[Reject] = ()


def readable(settings: Settings, files: Files, listener: Listener, stop: threading.Event) -> Readable:
    """Survey the source, or, where its pages are damaged, what can be read of it."""
    source = SourceFile(settings.source, stop)
    try:
        found = survey(source, nodes_only=settings.nodes_only)
        damage = [*salvage.damage(source, found.schema), *salvage.unclaimed(source)]
    except SourceDamagedError as error:
        damage = [str(error)]
    if not damage:
        return Readable(source, found)
    if settings.dry_run:
        raise SourceDamagedError(
            f"{source.path} is damaged ({damage[0]}); a real run copies what can be read and lists the rest"
        )
    return _salvaged(settings, source, files, damage, listener)


def _salvaged(
    settings: Settings, source: SourceFile, files: Files, damage: Sequence[str], listener: Listener
) -> Readable:
    discard_copy(files)
    free, needed = machine.free_disk(files.salvaged.parent), source.size()
    if free < needed:
        raise DiskError(
            f"{source.path} is damaged ({damage[0]}), and copying what can be read needs up to {needed / 10**6:.0f} MB "
            f"beside the target, where {free / 10**6:.0f} MB are free"
        )
    saved = salvage.salvage(source, files.salvaged)
    copy = SourceFile(files.salvaged, source.stop)
    found = replace(survey(copy, nodes_only=settings.nodes_only), identity=source.identity(), size=source.size())
    tables = {table.name for table in found.schema.tables()}
    telling = _of_rows(source, damage)
    lost = {table: saved.lost.get(table) or _unknown(table, telling) for table in tables}
    lost = {table: ranges for table, ranges in lost.items() if ranges}
    odd = {table: keys for table, keys in saved.odd.items() if table in tables}
    listener(Salvaged(damage, {name: rows for name, rows in saved.rows.items() if name in tables}, lost))
    rejects = [
        *(reject for reject in saved.rejects if reject.table in tables),
        *(_lost(table, first, last) for table, ranges in lost.items() for first, last in ranges),
        *(_odd(table, key) for table, keys in odd.items() for key in keys),
    ]
    return Readable(copy, found, salvaged=True, rejects=rejects)


def _of_rows(source: SourceFile, damage: Sequence[str]) -> list[str]:
    """The lines that may tell of rows which vanished without an error.

    Not those about an index, or a value that the table's declaration forbids, or a page that cannot be read: in a
    table, salvaging came upon that one.
    """
    query = "SELECT rootpage FROM sqlite_master WHERE type = 'index'"
    try:
        roots = source.read(lambda connection: {str(root) for (root,) in connection.execute(query)})
    except SourceError:
        roots = set()
    tree = re.compile(r"\b[Tt]ree (?:page )?(\d+)")  # by its first page, in the words of old and new releases
    return [
        line
        for line in damage
        if not any(word in line for word in _NOT_OF_ROWS) and not ((at := tree.search(line)) and at[1] in roots)
    ]


def _unknown(table: str, damage: Sequence[str]) -> Sequence[tuple[int, int]]:
    """Where pages of a table are damaged and no row is missed for it, rows may be missing that nothing tells of."""
    about_it = any(line.startswith(f"{table}: ") or not line.startswith("memory_") for line in damage)
    return [(FIRST_KEY, LAST_KEY)] if about_it else []


def _lost(table: str, first: int, last: int) -> Reject:
    reason = "the pages of SQLite's file that would hold these ids are damaged; some of them may never have been used"
    return Reject(table, shown(first, last), "range", reason, {})


def _odd(table: str, key: int) -> Reject:
    return Reject(table, key, "id", "its page is damaged: the row migrates, and may have had another id", {})


def discard_copy(files: Files) -> None:
    """Throw away the copy of a damaged source."""
    for piece in sqlite_pieces(files.salvaged):
        with suppress(OSError):  # a folder that became read-only has an error of its own, which is not to be hidden
            piece.unlink(missing_ok=True)
