"""Salvage: the rows that a damaged memory still yields, copied into a clean file, and the ids of the others.

The pages of a table are a tree ordered by row id (sqlite.org/fileformat.html, 1.6), so SQLite comes to a row in two
ways: in the order of the pages, and by its id. Damage may break either. Here tables are read in the order of their
pages, and each row is asked for by its id; where the two differ, the id belongs to the row that is found by it.
Behind a broken page, the next id that reads is searched for. Indexes are never used.
"""

import os
import re
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.errors import CannotWriteError, DiskError, SourceDamagedError
from nimad.source.file import InvalidText, SourceFile, rescue
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

#: A row, its key first. Empty where it cannot be read.
_Row = tuple[Any, ...]


@dataclass(frozen=True)
class Salvaged:
    """What was copied and what was not, by table.

    `lost`: inclusive ranges of ids where rows may have been that cannot be read; an end that is not known is
    `FIRST_KEY` or `LAST_KEY`. They are rowids in a table whose `id` is no INTEGER PRIMARY KEY.
    `odd`: ids of rows that were copied although SQLite does not find them by that id, so that it may be wrong.
    `rejects`: rows that were not copied, because their id belongs to another one.

    None of them knows what SQLite takes for whole, such as a page that was overwritten with another one of the file.
    See `unclaimed`.
    """

    rows: Mapping[str, int]
    lost: Mapping[str, Sequence[tuple[int, int]]]
    odd: Mapping[str, Sequence[int]]
    rejects: Sequence[Reject]


def damage(source: SourceFile, schema: Schema) -> list[str]:
    """What SQLite finds wrong with each migrated table and its indexes; empty when all is well."""

    def check(connection: sqlite3.Connection) -> list[str]:
        said = [(table.name, line) for table in schema.tables() for line in _check(connection, table.name)]
        # A value that a CHECK forbids can be read all the same; releases of NIMA differ in what they check.
        return [f"{table}: {line}" for table, line in said if not line.startswith("CHECK constraint failed")]

    return source.read(check)


def unclaimed(source: SourceFile) -> list[str]:
    """Pages of the file that belong to nothing, or to two trees.

    Where a page was overwritten with a whole one of another place, no check of the one table sees it, and its rows
    are missing without an error. A damaged full-text index may leave such pages, too.
    """
    lines = source.read(_check)
    return [line for line in lines if "never used" in line or "2nd reference" in line]


def _check(connection: sqlite3.Connection, *table: str) -> list[str]:
    """The lines of a quick_check, of a table or of the file."""
    query = f"SELECT * FROM pragma_quick_check{'(?)' if table else ''}"
    # More than the usual 100 lines. Not as that function's argument, which from SQLite 3.46 on names a table always.
    whole = query if table else "PRAGMA quick_check(10000)"
    try:
        said = [str(line) for (line,) in connection.execute(whole, table)]
    except sqlite3.DatabaseError as error:
        _raise_unless_unreadable(error)
        # What it says of the pages comes first, and would be lost with the error that follows it.
        row = _first(connection, f"{query} LIMIT 1", *table)
        said = [*(row or ()), str(error)]
    return [line for line in "\n".join(said).splitlines() if line != "ok" and not line.startswith("***")]


def _first(connection: sqlite3.Connection, query: str, *values: str | int) -> _Row | None:
    """The row of a query that gives one: None where there is none, and empty where it cannot be read.

    A query for more would not do: Python's cursors read one row ahead, and an error there takes the row before it.
    """
    try:
        row: _Row | None = connection.execute(query, values).fetchone()
    except (MemoryError, OverflowError):  # a damaged row may claim to be of any length
        return ()
    except sqlite3.DatabaseError as error:
        _raise_unless_unreadable(error)
        return ()
    return row


def _raise_unless_unreadable(error: sqlite3.DatabaseError) -> None:
    if _code(error) not in _UNREADABLE:
        raise error


def _code(error: BaseException | None) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def salvage(source: SourceFile, to: Path) -> Salvaged:
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
        if isinstance(error, SourceDamagedError) and _code(error.__cause__) != sqlite3.SQLITE_IOERR:
            raise SourceDamagedError(f"{error}, or {rescue(source.path)}") from error
        raise


def _salvage(connection: sqlite3.Connection, path: Path, to: Path) -> Salvaged:
    os.truncate(to, 0)  # `SourceFile.read` begins anew when the source changes under it
    # Only so does SQLite read a file that is cut, or whose schema has a broken line. Nothing is written.
    connection.execute("PRAGMA writable_schema = ON")
    found = {name: _shape_of(connection, name) for name in (NODES, EDGES, TURNS)}
    hidden = [name for name, shape in found.items() if shape is None and _may_hold(connection, name)]
    shapes = [shape for shape in found.values() if shape is not None]
    if found[NODES] is None:
        raise _corrupt("its schema shows no table memory_nodes")
    with closing(sqlite3.connect(to, isolation_level=None)) as copy:
        copy.text_factory = connection.text_factory
        # What is not finished is thrown away, so it needs no journal.
        copy.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        rescues = {shape.table: _Rescue(_Pages(connection, shape), _Copy(copy, shape)) for shape in shapes}
        for rescue in rescues.values():
            rescue.run()
            for last in _denying(connection, rescue.pages.shape.table, path):
                rescue.miss_behind(last)
        lost = {name: ranges for name, rescue in rescues.items() if (ranges := rescue.lost_ranges())}
        salvaged = Salvaged(
            rows={name: rescue.copy.count() for name, rescue in rescues.items()},
            lost=lost | {name: [(FIRST_KEY, LAST_KEY)] for name in hidden},
            odd={name: sorted(rescue.odd) for name, rescue in rescues.items() if rescue.odd},
            rejects=[reject for rescue in rescues.values() for reject in rescue.rejects.values()],
        )
        if NODES in lost and not salvaged.rows[NODES]:
            raise _corrupt("no row of memory_nodes can be read")
        for rescue in rescues.values():
            rescue.copy.finish()
        _write(copy, "COMMIT")
    return salvaged


def _may_hold(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table that SQLite does not show may be there: its line in the schema is broken, or is not read."""
    row = _first(connection, "SELECT count(*) FROM sqlite_master WHERE lower(name) = ?", table)
    return row != (0,)


def _denying(connection: sqlite3.Connection, table: str, path: Path) -> list[int]:
    """The last ids of pages that claim to hold less than is on them: what follows them is missing without an error."""
    found = (re.fullmatch(r"Fragmentation .* on page (\d+)", line) for line in _check(connection, table))
    return [last for page in found if page and (last := _last_id(path, int(page[1]))) is not None]


def _last_id(path: Path, page: int) -> int | None:
    """The last id on a page of a table, as its bytes are in the file (sqlite.org/fileformat.html, 1.6)."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        file.seek((page - 1) * size)
        data = file.read(size)
    inner, cells = data[:1] == b"\x05", int.from_bytes(data[3:5], "big")
    if not cells or data[:1] not in (b"\x05", b"\x0d"):
        return None
    pointer = (12 if inner else 8) + 2 * (cells - 1)
    cell = data[int.from_bytes(data[pointer : pointer + 2], "big") :]
    return _number(cell[4:] if inner else _number(cell)[1])[0] & LAST_KEY


def _number(data: bytes) -> tuple[int, bytes]:
    """The number with which `data` begins, seven bits in a byte, and what follows it."""
    value = 0
    for end, byte in enumerate(data[:9], start=1):
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, data[end:]
    return value, data[9:]


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
    def names(self) -> list[str]:
        return [self.key, *(name for name, _ in self.declared if name != self.key)]

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
    # A primary key with an index of its own, such as INTEGER PRIMARY KEY DESC, is a column like others.
    indexed = connection.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (table,)).fetchone()
    taken = {name.lower() for name, _ in declared}
    key = next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "rowid")
    if len(primary) == 1 and primary[0][1] == "INTEGER" and not indexed:
        key = primary[0][0]
    shape = _Shape(table, key, declared)
    try:
        # Names without the table's would be taken for texts where there is no such column.
        names = ", ".join(f"{quoted(table)}.{quoted(name)}" for name in shape.names)
        connection.execute(f"SELECT {names} FROM {quoted(table)} LIMIT 0")
    except (sqlite3.OperationalError, UnicodeDecodeError) as error:  # WITHOUT ROWID, or a name that is no text
        raise _corrupt(f"the columns of {table} cannot be told: {error}") from error
    return shape


class _Pages:
    """One table of the damaged file. Each answer is None where there is no row, and empty where it cannot be read."""

    def __init__(self, connection: sqlite3.Connection, shape: _Shape) -> None:
        self.connection = connection
        self.shape = shape
        self.key = quoted(shape.key)
        # An index may be damaged, and is never needed: these look at the table alone.
        self.select_key = f"SELECT {self.key} FROM {quoted(shape.table)} NOT INDEXED"
        self.select_row = f"SELECT {shape.columns} FROM {quoted(shape.table)} NOT INDEXED"

    def walk(self, start: int) -> Iterator[tuple[int, int | None]]:
        """Place and key of each row from `start` on, in the order of the pages; a key of None: a broken page."""
        place = 0
        while True:
            query, values = self._from(self.select_key, start, place, -1)
            try:
                for (key,) in self.connection.execute(query, values):
                    yield place, key
                    place += 1
            except sqlite3.DatabaseError as error:
                _raise_unless_unreadable(error)
            row = self.key_at(start, place)  # the row before the error, see `_first`
            if row is None:
                return
            yield place, row[0] if row else None
            place += 1

    def key_at(self, start: int, place: int = 0) -> _Row | None:
        query, values = self._from(self.select_key, start, place, 1)
        return _first(self.connection, query, *values)

    def row_at(self, start: int, place: int = 0) -> _Row | None:
        query, values = self._from(self.select_row, start, place, 1)
        return _first(self.connection, query, *values)

    def row_of(self, key: int) -> _Row | None:
        return _first(self.connection, f"{self.select_row} WHERE {self.key} = ?", key)

    def has(self, key: int) -> bool:
        """Whether SQLite finds a row by this id, be its values readable or not."""
        return bool(_first(self.connection, f"{self.select_key} WHERE {self.key} = ?", key))

    def last_key(self) -> int:
        row = _first(self.connection, f"{self.select_key} ORDER BY {self.key} DESC LIMIT 1")
        return row[0] if row else LAST_KEY

    def _from(self, select: str, start: int, place: int, rows: int) -> tuple[str, tuple[int, ...]]:
        """A query for rows from `start` on but for the first `place` ones, of which SQLite reads no value."""
        part = f"ORDER BY {self.key} LIMIT ? OFFSET ?"
        if start == FIRST_KEY:  # SQLite takes the first page, and need not search for it among others
            return f"{select} {part}", (rows, place)
        return f"{select} WHERE {self.key} >= ? {part}", (start, rows, place)


class _Copy:
    """One table of the clean file."""

    def __init__(self, connection: sqlite3.Connection, shape: _Shape) -> None:
        self.connection = connection
        self.shape = shape
        self.key = quoted(shape.key)
        self.table = quoted(shape.table)
        self.columns = shape.columns
        # No constraint refuses a row; and until all are in, no type changes what damage, or a STRICT table, put there.
        _write(connection, shape.create(typed=False))

    def insert(self, row: _Row) -> bool:
        """Add a row; False where its key is taken."""
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, InvalidText) else "?" for value in row)
        values = [value.raw if isinstance(value, InvalidText) else value for value in row]
        insert = f"INSERT OR IGNORE INTO {self.table} ({self.columns}) VALUES ({marks})"
        return _write(self.connection, insert, *values).rowcount > 0

    def get(self, key: int) -> _Row | None:
        query = f"SELECT {self.columns} FROM {self.table} WHERE {self.key} = ?"
        row: _Row | None = self.connection.execute(query, (key,)).fetchone()
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

    def __init__(self, pages: _Pages, copy: _Copy) -> None:
        self.pages = pages
        self.copy = copy
        self.lost: list[tuple[int, int]] = []  # where rows may be missing; rows that were copied lie in between
        self.broken: set[int] = set()  # ids of rows that are there, and cannot be read
        self.doubts: set[int] = set()  # ids behind which rows are missing, or have another id than they should
        self.steps: list[tuple[int, int]] = []  # ids that follow each other in the pages, and do not rise
        self.odd: set[int] = set()
        self.rejects: dict[_Row, Reject] = {}
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
        row_id = values[key_of(self.pages.shape.names)]
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
