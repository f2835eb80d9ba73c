"""A damaged source: readable rows are copied to a clean file that the run reads, unreadable ones are listed.

The readable rows are copied into a clean SQLite file beside the target, and the run reads that one. It is rebuilt
by each run and thrown away at its end; the source itself is never written to. A dry run writes nothing there: its copy
lies in the folder for temporary files.
"""

import re
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from nimad.config import Settings
from nimad.errors import CannotWriteError, SourceDamagedError, SourceError
from nimad.events.run import Listener, Salvaged
from nimad.host import machine
from nimad.host.disk import sqlite_pieces
from nimad.source import blank_pages, quick_check, salvage
from nimad.source.blank_pages import Blank
from nimad.source.header import check_source
from nimad.source.ranges import FIRST_KEY, LAST_KEY, shown
from nimad.source.rows import Reject
from nimad.source.schema import NODES
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import Survey, left_out_of_damaged, read_schema, survey
from nimad.state.paths import Files

#: Words of `quick_check`.
_NOT_OF_ROWS = ("index", " value in ", "returns error code", "malformed", "failed to get page")


@dataclass(frozen=True)
class ReadableSource:
    """The file that a run reads, what it holds, and what of the memory it lacks."""

    source: SourceFile
    survey: Survey
    salvaged: bool = False  # a copy of what can be read: what it lacks may still be in an unfinished target
    rejects: Sequence[Reject] = ()
    blank: Blank = field(default_factory=Blank)


class SalvageDir:
    """Where the copy of what can be read lies while a run goes on."""

    def __init__(self, settings: Settings, files: Files) -> None:
        self._dry = settings.dry_run
        self._files = files
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def make(self, source: SourceFile, damage: str) -> Path:
        """A path at which nothing stands, with room for a copy of `source`. Raises when there is none."""
        if self._dry:
            return self._temporary(source, damage)
        discard_copy(self._files)
        folder, needed = self._files.salvaged.parent, source.size()
        if (free := machine.free_disk(folder)) < needed:
            raise CannotWriteError(
                f"{source.path} is damaged ({damage}), and copying what can be read needs up to {needed / 10**6:.0f} "
                f"MB beside the target, where {free / 10**6:.0f} MB are free; make room, or choose another place with "
                "--target"
            )
        return self._files.salvaged

    def _temporary(self, source: SourceFile, damage: str) -> Path:
        needed, lacking = source.size(), ""
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="nimad-", ignore_cleanup_errors=True)
            if (free := machine.free_disk(Path(self._folder.name))) < needed:
                lacking = f"{tempfile.gettempdir()} has {free / 10**6:.0f} MB free"
        except OSError as error:
            lacking = f"no folder for temporary files can be made ({error.strerror})"
        if lacking or self._folder is None:
            raise SourceDamagedError(
                f"{source.path} is damaged ({damage}); a real run copies what can be read and lists the rest. For a "
                f"dry run that copy needs up to {needed / 10**6:.0f} MB of temporary room, and {lacking}; name another "
                "place with TMPDIR=FOLDER before the command"
            )
        return Path(self._folder.name) / "readable.sqlite"

    def discard(self) -> None:
        """Throw the copy away."""
        if self._folder is not None:
            self._folder.cleanup()
        elif not self._dry:
            discard_copy(self._files)


def readable(settings: Settings, place: SalvageDir, listener: Listener, stop: threading.Event) -> ReadableSource:
    """Survey the source, or, where its pages are damaged, what can be read of it."""
    source = SourceFile(settings.source, stop)
    try:
        found, damage = _looked_at(source, nodes_only=settings.nodes_only)
    except SourceDamagedError:
        try:  # damage is believed once a second look finds it, too
            found, damage = _looked_at(source, nodes_only=settings.nodes_only)
        except SourceDamagedError as error:
            damage = [str(error.__cause__ or error)]  # SQLite's words: ours name the file, as whoever quotes them does
    if not damage:
        return ReadableSource(source, found, rejects=[] if settings.nodes_only else _without_rows(found))
    return _salvaged(settings, source, place.make(source, damage[0]), damage, listener)


def _looked_at(source: SourceFile, *, nodes_only: bool) -> tuple[Survey, list[str]]:
    """What the source holds, and what is wrong with it."""
    with ThreadPoolExecutor(1) as thread:  # either look goes over the whole file
        unclaimed = thread.submit(quick_check.unclaimed, source)
        found = survey(source, nodes_only=nodes_only)
        damage = [*quick_check.damage(source, found.schema), *unclaimed.result()]
    if not damage:
        quick_check.refuse_foreign_log(source)
    return found, damage


def _without_rows(found: Survey) -> list[Reject]:
    """Edges or turns none of which can be read, in a file that is whole."""
    lost = [each for each in found.left_out if each.is_lost]
    return [
        Reject(
            each.name.lower(), shown(FIRST_KEY, LAST_KEY), "range", f"none of its rows can be migrated: {each.why}", {}
        )
        for each in lost
    ]


def _salvaged(
    settings: Settings, source: SourceFile, to: Path, damage: Sequence[str], listener: Listener
) -> ReadableSource:
    saved = salvage.salvage(source, to)
    copy = SourceFile(to, source.stop)
    found = survey(copy, nodes_only=settings.nodes_only)
    found = replace(
        found, identity=source.identity(), size=source.size(), left_out=left_out_of_damaged(source, found.schema)
    )
    # One whose line in the schema is broken is not in the copy, and all that it held is lost.
    hidden = set() if settings.nodes_only else saved.lost.keys() - saved.rows.keys()
    tables = {table.name for table in found.schema.tables()} | hidden
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
    gone = blank_pages.count_blank(
        source, found.nodes, saved.lost.get(NODES, ())
    )  # not where memories only may be missing
    return ReadableSource(copy, found, salvaged=True, rejects=rejects, blank=gone)


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


def check_readable(path: Path, stop: threading.Event) -> None:
    """Raise `SourceError` where there is no memory, or one that is just being made."""
    check_source(path)
    source = SourceFile(path, stop)
    source.read(lambda connection: read_schema(connection, source, nodes_only=True))
