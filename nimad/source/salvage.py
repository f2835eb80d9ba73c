"""Salvage of a damaged memory: readable rows are copied to a clean file, the ids of others are listed.

The pages of a table are a tree ordered by row id (sqlite.org/fileformat.html, 1.6), so SQLite comes to a row in two
ways: in the order of the pages, and by its id. Damage may break either. Here tables are read in the order of their
pages, and each row is asked for by its id; where the two differ, the id belongs to the row that is found by it.
Behind a broken page, the next id that reads is searched for. Indexes are never used.
"""

import os
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.errors import CannotWriteError, DiskError, SourceDamagedError
from nimad.source.cells import InvalidText, Uncomputed
from nimad.source.damaged_pages import (
    Pages,
    Row,
    Shape,
    corrupt,
    first_row,
    may_hold,
    raise_unless_unreadable,
    shape_of,
)
from nimad.source.header import rescue
from nimad.source.quick_check import denying
from nimad.source.ranges import FIRST_KEY, LAST_KEY
from nimad.source.row_numbers import lift
from nimad.source.rows import Reject
from nimad.source.schema import EDGES, NODES, TURNS
from nimad.source.sql import error_code, sql_name
from nimad.source.sqlite_file import SourceFile

#: Ids behind a broken page that are tried one by one, so that what is lost is exact: a broken inner page hides some
#: thousand rows. From there on, each step is this part of the way already gone.
PROBES = 10_000
PROBE_STEP = 256
#: Rows of a table that may be met again before its pages are taken to run in circles.
REPEATS = 100_000


@dataclass(frozen=True)
class SalvagedRows:
    """What was copied and what was not, by table.

    `lost`: inclusive ranges of ids where rows may have been that cannot be read; an end that is not known is
    `FIRST_KEY` or `LAST_KEY`. They are rowids in a table whose `id` is no INTEGER PRIMARY KEY.
    `odd`: ids of rows that were copied although SQLite does not find them by that id, so that it may be wrong.
    `rejects`: rows that were not copied, because their id belongs to another one.

    None of them knows what SQLite takes for whole, such as a page that was overwritten with another one of the file.
    See `quick_check.unclaimed`.
    """

    rows: Mapping[str, int]
    lost: Mapping[str, Sequence[tuple[int, int]]]
    odd: Mapping[str, Sequence[int]]
    rejects: Sequence[Reject]


def salvage(source: SourceFile, to: Path) -> SalvagedRows:
    """Copy every readable node, edge and turn into a new SQLite file.

    Raises `SourceDamagedError` when no node can be read, `CannotWriteError` when `to` exists or cannot be made.
    """
    try:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise CannotWriteError(
            f"{to} cannot be made ({error.strerror}); look at it with: ls -l {shlex.quote(str(to))}"
        ) from None
    try:
        return source.read(lambda connection: _salvage(connection, source.path, to))
    except BaseException as error:
        to.unlink(missing_ok=True)
        if isinstance(error, SourceDamagedError) and error_code(error.__cause__) != sqlite3.SQLITE_IOERR:
            raise SourceDamagedError(f"{error}, or {rescue(source.path)}") from error
        raise


def _salvage(connection: sqlite3.Connection, path: Path, to: Path) -> SalvagedRows:
    os.truncate(to, 0)  # `SourceFile.read` starts over when the source changes under it
    # Only so does SQLite read a file that is cut, or whose schema has a broken line. Nothing is written.
    connection.execute("PRAGMA writable_schema = ON")
    lift(connection)
    found = {name: shape_of(connection, name) for name in (NODES, EDGES, TURNS)}
    hidden = [name for name, shape in found.items() if shape is None and may_hold(connection, name)]
    shapes = [shape for shape in found.values() if shape is not None]
    if found[NODES] is None:
        raise corrupt("its schema shows no table memory_nodes")
    with closing(sqlite3.connect(to, isolation_level=None)) as copy:
        copy.text_factory = connection.text_factory
        # What is not finished is thrown away, so it needs no journal.
        copy.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        rescues = {
            shape.table: (_InOrder if shape.without_rowid else _Rescue)(Pages(connection, shape), _Copy(copy, shape))
            for shape in shapes
        }
        for rescue in rescues.values():
            rescue.run()
            for last in denying(connection, rescue.pages.shape.table, path):
                rescue.miss_behind(last)
        lost = {name: ranges for name, rescue in rescues.items() if (ranges := rescue.lost_ranges())}
        salvaged = SalvagedRows(
            rows={name: rescue.copy.count() for name, rescue in rescues.items()},
            lost=lost | {name: [(FIRST_KEY, LAST_KEY)] for name in hidden},
            odd={name: sorted(rescue.odd) for name, rescue in rescues.items() if rescue.odd},
            rejects=[reject for rescue in rescues.values() for reject in rescue.rejects.values()],
        )
        if NODES in lost and not salvaged.rows[NODES]:
            raise corrupt("no row of memory_nodes can be read")
        for rescue in rescues.values():
            rescue.copy.finish()
        _write(copy, "COMMIT")
    return salvaged


class _Copy:
    """One table of the clean file."""

    def __init__(self, connection: sqlite3.Connection, shape: Shape) -> None:
        self.connection = connection
        self.shape = shape
        self.key = sql_name(shape.key)
        self.table = sql_name(shape.table)
        self.columns = shape.columns
        # No constraint refuses a row; and until all are in, no type changes what damage, or a STRICT table, put there.
        _write(connection, shape.create(typed=False))

    def insert(self, row: Row) -> bool:
        """Add a row; False where its key is taken."""
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, InvalidText) else "?" for value in row)
        values = [value.raw if isinstance(value, InvalidText) else value for value in row]
        values = [None if isinstance(value, Uncomputed) else value for value in values]
        insert = f"INSERT OR IGNORE INTO {self.table} ({self.columns}) VALUES ({marks})"
        # Not `rowcount`: in a Turkish locale Python does not know INSERT for a statement that writes.
        before = self.connection.total_changes
        _write(self.connection, insert, *values)
        return self.connection.total_changes > before

    def get(self, key: int) -> Row | None:
        query = f"SELECT {self.columns} FROM {self.table} WHERE {self.key} = ?"
        row: Row | None = self.connection.execute(query, (key,)).fetchone()
        return row

    def keys(self, first: int, last: int) -> Iterator[int]:
        where = f"{self.key} BETWEEN ? AND ? ORDER BY {self.key}"
        return (
            row[0]
            for row in self.connection.execute(f"SELECT {self.key} FROM {self.table} WHERE {where}", (first, last))
        )

    def next_to(self, low: int, high: int) -> tuple[int | None, int | None]:
        """The keys next to two keys: above the one, and below the other."""
        above = f"SELECT min({self.key}) FROM {self.table} WHERE {self.key} > ?"
        below = f"SELECT max({self.key}) FROM {self.table} WHERE {self.key} < ?"
        keys: tuple[int | None, int | None] = self.connection.execute(
            f"SELECT ({above}), ({below})", (low, high)
        ).fetchone()
        return keys

    def count(self) -> int:
        (count,) = self.connection.execute(f"SELECT count(*) FROM {self.table}").fetchone()
        return int(count)

    def finish(self) -> None:
        """Give the columns the types that they have in the source."""
        _write(self.connection, "PRAGMA writable_schema = ON")
        schema = "UPDATE sqlite_master SET sql = ? WHERE name = ?"
        _write(self.connection, schema, self.shape.create(typed=True), self.shape.table)


def _write(copy: sqlite3.Connection, sql: str, *values: Any) -> sqlite3.Cursor:
    try:
        return copy.execute(sql, values)
    except sqlite3.Error as error:  # which is none of the source
        raise DiskError(f"the copy of what can be read cannot be written ({error})") from error


class _Rescue:
    """One table on its way from the damaged file to the clean one."""

    def __init__(self, pages: Pages, copy: _Copy) -> None:
        self.pages = pages
        self.copy = copy
        self.lost: list[tuple[int, int]] = []  # where rows may be missing; rows that were copied lie in between
        self.broken: set[int] = set()  # ids of rows that are there, and cannot be read
        self.doubts: set[int] = set()  # ids behind which rows are missing, or have another id than they should
        self.steps: list[tuple[int, int]] = []  # ids that follow each other in the pages, and do not rise
        self.odd: set[int] = set()
        self.rejects: dict[Row, Reject] = {}
        self.repeats = 0

    def run(self) -> None:
        start: int | None = FIRST_KEY
        while start is not None:
            start = self._follow(start)
        self._resolve(LAST_KEY + 1)

    def _follow(self, start: int) -> int | None:
        """Copy rows in the order of the pages, up to the end or a broken one; the id to go on from, if there is one."""
        after = before = start - 1  # the last row that stands where its id belongs, and the last one of all
        sure = True  # whether `after` was looked at where it stands, or only found by its id
        for place, key in self.pages.walk(start):
            if not sure and (key is None or key <= after):
                claimed, after, sure = after, self._last_in_place(start, place - 1), True
                self.doubts |= {after} - {claimed}
            if key is None or (place and self.repeats > REPEATS):
                after = start - 1 if self._leads_on(start, after) else after
                self.doubts.add(after)
                return self._behind(max(start, after))
            if key <= before:
                self.steps.append((before, key))
            before = key
            if key > after and self._take(key):
                after, sure = key, False
                self._resolve(key)
            else:
                self.doubts.add(after)
                if self._settle(start, place, key):
                    after, sure = key, True
        return None

    def _resolve(self, key: int) -> None:
        """End the doubts before a row that stands where its id belongs: all up to it may be lost."""
        passed = {doubt for doubt in self.doubts if doubt < key}
        self.lost += [(doubt + 1, key - 1) for doubt in passed]
        self.doubts -= passed

    def _take(self, key: int) -> bool:
        """Copy the row that SQLite finds by this id; False when it finds none."""
        row = self.pages.row_of(key)
        if row:
            self.repeats += not self.copy.insert(row)
            return True
        if row is None or not self.pages.has(key):
            return False
        self.repeats += key in self.broken
        self.broken.add(key)
        return True

    def _settle(self, start: int, place: int, key: int) -> bool:
        """Copy or reject the row at a place; True when it is the one that SQLite finds by its id."""
        found = self._take(key)
        row = self.pages.row_at(start, place)
        if not row:
            return key in self.broken
        if not found and self.copy.insert(row):
            self.odd.add(key)
            return False
        self.repeats += 1
        if self.copy.get(key) == row:
            return found
        values = dict(zip(self.pages.shape.names, row, strict=True))
        row_id = next((value for name, value in values.items() if name.lower() == "id"), values[self.pages.shape.key])
        self.rejects[row] = Reject(self.pages.shape.table, row_id, "row", "another row has the same id", values)
        return False

    def _last_in_place(self, start: int, place: int) -> int:
        """The last id, up to a place, whose row is the one that SQLite finds by it."""
        for earlier in range(place, -1, -1):
            row = self.pages.key_at(start, earlier)
            if row and self._settle(start, earlier, row[0]):
                return int(row[0])
        return start - 1

    def _leads_on(self, start: int, after: int) -> bool:
        """Whether SQLite reads on behind `after` when it finds it by its id: then its page stands in two places."""
        if not start <= after < LAST_KEY:
            return False
        row = self.pages.row_at(after + 1)
        return bool(row and row[0] > after and self.pages.row_of(row[0]) == row)

    def _behind(self, tried: int) -> int | None:
        """The first id after `tried` from which reading goes on."""
        for probe in _probes(tried, self.pages.last_key()):
            if self._opens(probe):
                good = probe
                while good - tried > 1:
                    middle = (tried + good) // 2
                    tried, good = (tried, middle) if self._opens(middle) else (middle, good)
                return good
            tried = probe
        return None

    def _opens(self, start: int) -> bool:
        """Whether reading from this id on gives a row that was not met yet, or comes to the end of the table."""
        row = self.pages.key_at(start)
        if not row:
            return row is None
        key = row[0]
        known = key < start or key in self.broken or self.copy.get(key) is not None
        return not known and (self.pages.has(key) or bool(self.pages.row_at(start)))

    def miss_behind(self, last: int) -> None:
        """All between this id and the next one that was copied may be lost."""
        above, _ = self.copy.next_to(last, last)
        self.lost.append((last + 1, LAST_KEY if above is None else above - 1))

    def lost_ranges(self) -> list[tuple[int, int]]:
        """Where rows may be missing, without the ids that were copied: ranges in order, apart from each other."""
        ranges: list[tuple[int, int]] = []
        for first, last in _joined([*self.lost, *((key, key) for key in self.broken), *self._about_steps()]):
            start = first
            for key in self.copy.keys(first, last):
                ranges.append((start, key - 1))
                start = key + 1
            ranges.append((start, last))
        return [(first, last) for first, last in ranges if first <= last]

    def _about_steps(self) -> Iterator[tuple[int, int]]:
        """A page that stands in two places, or an id that is wrong, took a place next to either end of a step."""
        for before, key in self.steps:
            above, below = self.copy.next_to(before, key)
            if above is not None:
                yield before + 1, above - 1
            if below is not None:
                yield below + 1, key - 1


class _InOrder(_Rescue):
    """A table without rowids: its rows as far as they read, from the first one on and from the last one back.

    Its tree is ordered by a key of any type, so no id can be searched for behind a broken page.
    """

    def run(self) -> None:
        shape = self.pages.shape
        rows = self.pages.connection.execute("SELECT name FROM pragma_table_info(?, 'main') WHERE pk", (shape.table,))
        back = ", ".join(f"{sql_name(str(name))} DESC" for (name,) in rows)
        if not self._read("") and back:
            self._read(f"ORDER BY {back}")

    def _read(self, order: str) -> bool:
        """Copy rows up to the end, or to a broken page; whether it came to the end."""
        connection, select, place = self.pages.connection, f"{self.pages.select} {order}", 0
        try:
            for row in connection.execute(select):
                self._add(row)
                place += 1
        except sqlite3.DatabaseError as error:
            raise_unless_unreadable(error)
            if row := first_row(connection, f"{select} LIMIT 1 OFFSET ?", place):  # the cursor reads one row ahead
                self._add(row)
            self.lost = [(FIRST_KEY, LAST_KEY)]
            return False
        return True

    def lost_ranges(self) -> list[tuple[int, int]]:
        """Any row may be missing between the two ends: a number that is a digest of a key tells of no other."""
        return [(FIRST_KEY, LAST_KEY)] if self.lost else []

    def _add(self, row: Row) -> None:
        if isinstance(row[0], int):
            self.copy.insert(row)
        else:
            values = dict(zip(self.pages.shape.names, row, strict=True))
            self.rejects[row] = Reject(self.pages.shape.table, row[0], "row", "its id is no integer", values)


def _probes(after: int, last: int) -> Iterator[int]:
    """Ids to try behind `after`, and the last of the table: one by one behind it and from 0 on, where ids begin."""
    probe = after + 1
    while probe <= LAST_KEY:
        yield probe
        behind = LAST_KEY if after == FIRST_KEY else probe - after
        near = behind < PROBES or 0 <= probe < PROBES
        step = 1 if near else max(1, min(behind, abs(probe)) // PROBE_STEP)
        probe = last if probe < last < probe + step else probe + step


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        elif first <= last:
            joined.append((first, last))
    return joined
