"""Salvage: the rows that a damaged memory still yields, copied into a clean file, and the ids of the others.

The pages of a table are a tree ordered by row id (sqlite.org/fileformat.html, 1.6), so SQLite comes to a row in two
ways: in the order of the pages, and by its id. Damage may break either. Here tables are read in the order of their
pages, and each row is asked for by its id; where the two differ, the id belongs to the row that is found by it.
Behind a broken page, the next id that reads is searched for. Indexes are never used.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.errors import CannotWriteError, DiskError
from nimad.source.file import InvalidText, SourceFile
from nimad.source.ranges import FIRST_KEY, LAST_KEY
from nimad.source.rows import Reject
from nimad.source.schema import EDGES, NODES, TURNS, Schema, columns_of, key_of, quoted

#: Ids behind a broken page that are tried one by one, so that what is lost is exact: a broken inner page hides some
#: thousand rows. From there on, each step is this part of the way already gone.
PROBES = 10_000
PROBE_STEP = 256
#: Rows of a table that may be met again before its pages are taken to run in circles.
REPEATS = 100_000

#: What SQLite says of what it cannot read. An I/O error also ends the transaction, and with it every statement that
#: still runs (ABORT); a damaged row may claim to be of any length (TOOBIG).
_UNREADABLE = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ABORT, sqlite3.SQLITE_TOOBIG}
)
#: Lines of `quick_check` about a value that a constraint forbids: such a row can be read, so that is no damage.
_CONSTRAINTS = ("CHECK constraint failed", "NULL value in", "NUMERIC value in", "TEXT value in", "non-")

#: A row, its key first. Empty where it cannot be read.
_Row = tuple[Any, ...]


@dataclass(frozen=True)
class Salvaged:
    """What was copied and what was not, by table.

    `lost`: inclusive ranges of ids where rows may have been that cannot be read; an end that is not known is
    `FIRST_KEY` or `LAST_KEY`. They are rowids in a table whose `id` is no INTEGER PRIMARY KEY.
    `odd`: ids of rows that were copied although SQLite does not find them by that id, so that it may be wrong.
    `rejects`: rows that were not copied, because their id belongs to another one.
    """

    rows: Mapping[str, int]
    lost: Mapping[str, Sequence[tuple[int, int]]]
    odd: Mapping[str, Sequence[int]]
    rejects: Sequence[Reject]


def damage(source: SourceFile, schema: Schema) -> list[str]:
    """What SQLite finds wrong with the pages of each migrated table and of its indexes; empty when all is well."""
    return source.read(
        lambda connection: [line for table in schema.tables() for line in _damage_of(connection, table.name)]
    )


def _damage_of(connection: sqlite3.Connection, table: str) -> list[str]:
    lines: list[str] = []
    try:
        for (said,) in connection.execute(f"PRAGMA quick_check({quoted(table)})"):
            lines += said.splitlines()
    except sqlite3.DatabaseError as error:
        _raise_unless_unreadable(error)
        lines.append(str(error))
    return [f"{table}: {line}" for line in lines if not line.startswith(("ok", "***", *_CONSTRAINTS))]


def _raise_unless_unreadable(error: sqlite3.DatabaseError) -> None:
    if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _UNREADABLE:
        raise error


def salvage(source: SourceFile, to: Path) -> Salvaged:
    """Copy every readable node, edge and turn into a new SQLite file.

    Raises `SourceDamagedError` when no node can be read, `CannotWriteError` when `to` exists or cannot be made.
    """
    try:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise CannotWriteError(f"{to} cannot be made ({error.strerror}); look at it with: ls -l {to}") from None
    try:
        return source.read(lambda connection: _salvage(connection, to))
    except BaseException:
        to.unlink(missing_ok=True)
        raise


def _salvage(connection: sqlite3.Connection, to: Path) -> Salvaged:
    os.truncate(to, 0)  # `SourceFile.read` begins anew when the source changes under it
    # Only so does SQLite read a file that is cut, or whose schema has a broken line. Nothing is written.
    connection.execute("PRAGMA writable_schema = ON")
    shapes = [shape for name in (NODES, EDGES, TURNS) if (shape := _shape_of(connection, name)) is not None]
    if not shapes or shapes[0].table != NODES:
        raise _corrupt("its schema has no table memory_nodes")
    with closing(sqlite3.connect(to, isolation_level=None)) as copy:
        copy.text_factory = connection.text_factory
        # What is not finished is thrown away, so it needs no journal.
        copy.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        rescues = {shape.table: _Rescue(_Pages(connection, shape), _Copy(copy, shape)) for shape in shapes}
        for rescue in rescues.values():
            rescue.run()
        if rescues[NODES].lost and not rescues[NODES].copy.count():
            raise _corrupt("no row of memory_nodes can be read")
        salvaged = Salvaged(
            rows={name: rescue.copy.count() for name, rescue in rescues.items()},
            lost={name: lost for name, rescue in rescues.items() if (lost := rescue.lost_ranges())},
            odd={name: sorted(rescue.odd) for name, rescue in rescues.items() if rescue.odd},
            rejects=[reject for rescue in rescues.values() for reject in rescue.rejects],
        )
        for rescue in rescues.values():
            rescue.copy.finish()
        _write(copy, "COMMIT")
    return salvaged


def _corrupt(why: str) -> sqlite3.DatabaseError:
    """An error like SQLite's own, for `SourceFile` to explain."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


@dataclass(frozen=True)
class _Shape:
    """A table's columns, and what its tree is ordered by: the INTEGER PRIMARY KEY, or a name of the rowid."""

    table: str
    key: str
    declared: tuple[tuple[str, str], ...]  # name and type of each column

    @property
    def names(self) -> tuple[str, ...]:
        return (self.key, *(name for name, _ in self.declared if name != self.key))

    @property
    def columns(self) -> str:
        return ", ".join(map(quoted, self.names))

    def create(self, *, typed: bool) -> str:
        columns = (
            f"{quoted(name)} {'INTEGER PRIMARY KEY' if name == self.key else declared if typed else ''}"
            for name, declared in self.declared
        )
        return f"CREATE TABLE {quoted(self.table)} ({', '.join(columns)})"


def _shape_of(connection: sqlite3.Connection, table: str) -> _Shape | None:
    declared = tuple(columns_of(connection, table))
    if not declared:
        return None
    primary = connection.execute("SELECT name, upper(type) FROM pragma_table_xinfo(?) WHERE pk", (table,)).fetchall()
    # A primary key with an index of its own is not the rowid: INTEGER PRIMARY KEY DESC, or WITHOUT ROWID.
    indexed = connection.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (table,)).fetchone()
    if len(primary) == 1 and primary[0][1] == "INTEGER" and not indexed:
        return _Shape(table, primary[0][0], declared)
    taken = {name.lower() for name, _ in declared}
    key = next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "rowid")
    try:
        connection.execute(f"SELECT {key} FROM {quoted(table)} LIMIT 0")
    except sqlite3.OperationalError:
        raise _corrupt(f"and {table} has no rowid, by which rows are saved") from None
    return _Shape(table, key, declared)


class _Pages:
    """One table of the damaged file. Each answer is None where there is no row, and empty where it cannot be read."""

    def __init__(self, connection: sqlite3.Connection, shape: _Shape) -> None:
        self.connection = connection
        self.shape = shape
        self.key = quoted(shape.key)

    def walk(self, start: int) -> Iterator[tuple[int, int | None]]:
        """Place and key of each row from `start` on, in the order of the pages; a key of None: a broken page."""
        place = 0
        while True:
            try:
                for (key,) in self._select(self.key, self._from(start, place, -1)):
                    yield place, key
                    place += 1
            except sqlite3.DatabaseError as error:
                _raise_unless_unreadable(error)
            # Python's cursor reads one row ahead, so that an error also takes the row before it.
            row = self.key_at(start, place)
            if row is None:
                return
            yield place, row[0] if row else None
            place += 1

    def key_at(self, start: int, place: int = 0) -> _Row | None:
        return self._first(self.key, self._from(start, place, 1))

    def row_at(self, start: int, place: int = 0) -> _Row | None:
        return self._first(self.shape.columns, self._from(start, place, 1))

    def row_of(self, key: int) -> _Row | None:
        return self._first(self.shape.columns, f"WHERE {self.key} = ?", key)

    def has(self, key: int) -> bool:
        """Whether SQLite finds a row by this id, be its values readable or not."""
        return bool(self._first(self.key, f"WHERE {self.key} = ?", key))

    def last(self) -> int:
        row = self._first(self.key, f"ORDER BY {self.key} DESC LIMIT 1")
        return row[0] if row else LAST_KEY

    def _from(self, start: int, place: int, rows: int) -> str:
        """The rows from `start` on but for the first `place` ones, of which SQLite reads no value."""
        # Without a condition SQLite takes the first page instead of searching for it, which needs less of it whole.
        where = "" if start == FIRST_KEY else f"WHERE {self.key} >= {start} "
        return f"{where}ORDER BY {self.key} LIMIT {rows} OFFSET {place}"

    def _first(self, what: str, where: str, *values: int) -> _Row | None:
        try:
            row: _Row | None = self._select(what, where, *values).fetchone()
        except (MemoryError, OverflowError):  # a damaged row may claim to be of any length
            return ()
        except sqlite3.DatabaseError as error:
            _raise_unless_unreadable(error)
            return ()
        return row

    def _select(self, what: str, where: str, *values: int) -> sqlite3.Cursor:
        return self.connection.execute(f"SELECT {what} FROM {quoted(self.shape.table)} NOT INDEXED {where}", values)


class _Copy:
    """One table of the clean file."""

    def __init__(self, connection: sqlite3.Connection, shape: _Shape) -> None:
        self.connection = connection
        self.shape = shape
        self.key = quoted(shape.key)
        self.table = quoted(shape.table)
        # Without types until all is in: a type would change values that damage, or a STRICT table, put there.
        self._run(shape.create(typed=False))

    def insert(self, row: _Row) -> bool:
        """Add a row; False where its key is taken."""
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, InvalidText) else "?" for value in row)
        values = [value.raw if isinstance(value, InvalidText) else value for value in row]
        insert = f"INSERT OR IGNORE INTO {self.table} ({self.shape.columns}) VALUES ({marks})"
        return self._run(insert, *values).rowcount > 0

    def get(self, key: int) -> _Row | None:
        row: _Row | None = self._run(
            f"SELECT {self.shape.columns} FROM {self.table} WHERE {self.key} = ?", key
        ).fetchone()
        return row

    def below(self, key: int) -> int:
        """The highest key below this one."""
        row = self._run(f"SELECT max({self.key}) FROM {self.table} WHERE {self.key} < ?", key).fetchone()
        return FIRST_KEY - 1 if row[0] is None else int(row[0])

    def keys(self, first: int, last: int) -> Iterator[int]:
        where = f"{self.key} BETWEEN ? AND ? ORDER BY {self.key}"
        return (row[0] for row in self._run(f"SELECT {self.key} FROM {self.table} WHERE {where}", first, last))

    def count(self) -> int:
        return int(self._run(f"SELECT count(*) FROM {self.table}").fetchone()[0])

    def finish(self) -> None:
        """Give the columns their types, as a file has them that was never damaged."""
        self._run("PRAGMA writable_schema = ON")
        self._run("UPDATE sqlite_master SET sql = ? WHERE name = ?", self.shape.create(typed=True), self.shape.table)

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return _write(self.connection, sql, *values)


def _write(copy: sqlite3.Connection, sql: str, *values: Any) -> sqlite3.Cursor:
    try:
        return copy.execute(sql, values)
    except sqlite3.Error as error:  # not to be taken for one of the source
        raise DiskError(f"the copy of what can be read cannot be written ({error})") from error


class _Rescue:
    """One table on its way from the damaged file to the clean one."""

    def __init__(self, pages: _Pages, copy: _Copy) -> None:
        self.pages = pages
        self.copy = copy
        self.lost: list[tuple[int, int]] = []  # behind broken pages; may hold ids that were copied all the same
        self.doubts: set[int] = set()  # ids behind which rows are missing or have other ids
        self.broken: set[int] = set()  # ids whose row is there, and cannot be read
        self.odd: set[int] = set()
        self.rejects: list[Reject] = []
        self.repeats = 0

    def run(self) -> None:
        start: int | None = FIRST_KEY
        while start is not None:
            start = self._follow(start)

    def _follow(self, start: int) -> int | None:
        """Copy rows in the order of the pages, up to the end or a broken one; return where to go on."""
        after = before = start - 1  # the last row that stands where its id belongs, and the last one of all
        sure = True  # whether `after` was looked at where it stands, or only found by its id
        for place, key in self.pages.walk(start):
            if not sure and (key is None or key <= after):
                claimed, after, sure = after, self._last_in_place(start, place - 1), True
                self.doubts |= {after} - {claimed}
            if key is None or (place and self.repeats > REPEATS):
                return self._behind(start, start - 1 if self._leads_on(start, after) else after)
            if key > after and self._take(key):
                sure = False
                self._resolve(key)
            else:
                self.doubts.add(after)
                if not self._settle(start, place, key):
                    before = key
                    continue
                if key <= before:
                    self.lost.append((self.copy.below(key) + 1, key - 1))
                sure = True
            after = before = key
        self._resolve(LAST_KEY + 1)
        return None

    def _resolve(self, key: int) -> None:
        """From where rows were missing or had other ids up to `key`, which stands where it belongs, all may be lost."""
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
        """Copy or reject a row that is not where its id belongs; True when it is the one that SQLite finds by it."""
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
        reject = self._reject(row)
        if reject not in self.rejects:
            self.rejects.append(reject)
        return False

    def _reject(self, row: _Row) -> Reject:
        names = self.pages.shape.names
        values = dict(zip(names, row, strict=True))
        return Reject(self.pages.shape.table, values[key_of([*names])], "row", "another row has the same id", values)

    def _last_in_place(self, start: int, place: int) -> int:
        """The last id, up to a place, whose row is the one that SQLite finds by it."""
        for earlier in range(place, -1, -1):
            row = self.pages.key_at(start, earlier)
            if row and self._settle(start, earlier, row[0]):
                return int(row[0])
        return start - 1

    def _behind(self, start: int, after: int) -> int | None:
        """Where reading goes on behind the broken page that follows `after`; None when nothing reads."""
        self.doubts.add(after)
        tried = max(start, after)
        for probe in _probes(tried, self.pages.last()):
            if self._opens(probe):
                good = probe
                while good - tried > 1:
                    middle = (tried + good) // 2
                    tried, good = (tried, middle) if self._opens(middle) else (middle, good)
                return good
            tried = probe
        self._resolve(LAST_KEY + 1)
        return None

    def _leads_on(self, start: int, after: int) -> bool:
        """Whether the row `after` is followed by another one when found by its id: then it stands in two places."""
        if not start <= after < LAST_KEY:
            return False
        row = self.pages.row_at(after + 1)
        return bool(row and row[0] > after and self.pages.row_of(row[0]) == row)

    def _opens(self, start: int) -> bool:
        """Whether reading from this id on gives a row that was not met yet, or comes to the end of the table."""
        row = self.pages.key_at(start)
        if not row:
            return row is None
        key = row[0]
        known = key < start or key in self.broken or self.copy.get(key) is not None
        return not known and (self.pages.has(key) or bool(self.pages.row_at(start)))

    def lost_ranges(self) -> list[tuple[int, int]]:
        """Ids of rows that were not copied, or may not have been: ranges in order, apart from each other."""
        ranges: list[tuple[int, int]] = []
        for first, last in _joined([*self.lost, *((key, key) for key in self.broken)]):
            start = first
            for key in self.copy.keys(first, last):
                ranges.append((start, key - 1))
                start = key + 1
            ranges.append((start, last))
        return [(first, last) for first, last in ranges if first <= last]


def _probes(after: int, last: int) -> Iterator[int]:
    """Ids to try behind `after`, rising: close to each other near it and near 0, where ids begin."""
    probe = after + 1
    while probe <= LAST_KEY:
        yield probe
        far = abs(probe) if after == FIRST_KEY else min(probe - after, abs(probe))
        step = max(1, (far - PROBES) // PROBE_STEP)
        probe = last if probe < last < probe + step else probe + step


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        elif first <= last:
            joined.append((first, last))
    return joined
