"""The pages of a damaged file, as far as SQLite reads them."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nimad.source.ranges import FIRST_KEY, LAST_KEY
from nimad.source.schema import columns_of
from nimad.source.sql import error_code, sql_name

#: What SQLite says of what it cannot read. An I/O error also ends the transaction, and with it every statement that
#: still runs (ABORT); a damaged row may claim to be of any length (TOOBIG).
_UNREADABLE = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ABORT, sqlite3.SQLITE_TOOBIG}
)

#: A row, its key first. Empty where it cannot be read.
Row = tuple[Any, ...]


def first_row(connection: sqlite3.Connection, query: str, *values: str | int) -> Row | None:
    """The row of a query that gives one: None where there is none, and empty where it cannot be read.

    A query for more would not do: Python's cursors read one row ahead, and an error there takes the row before it.
    """
    try:
        row: Row | None = connection.execute(query, values).fetchone()
    except (MemoryError, OverflowError):  # a damaged row may claim to be of any length
        return ()
    except sqlite3.DatabaseError as error:
        raise_unless_unreadable(error)
        return ()
    return row


def raise_unless_unreadable(error: sqlite3.DatabaseError) -> None:
    if error_code(error) not in _UNREADABLE:
        raise error


def corrupt(why: str) -> sqlite3.DatabaseError:
    """An error like SQLite's own, for `SourceFile` to explain."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def may_hold(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table that SQLite does not show may be there: its line in the schema is broken, or is not read."""
    row = first_row(connection, "SELECT count(*) FROM sqlite_master WHERE lower(name) = ?", table)
    return row != (0,)


@dataclass(frozen=True)
class Shape:
    """A table's columns, and what its tree is ordered by: the INTEGER PRIMARY KEY, or a name of the rowid."""

    table: str
    key: str
    declared: tuple[tuple[str, str], ...]  # name and type of each column
    without_rowid: bool = False
    stored: frozenset[str] = frozenset()  # generated columns whose values are in the file

    @property
    def names(self) -> list[str]:
        return [self.key, *(name for name, _ in self.declared if name != self.key)]

    @property
    def columns(self) -> str:
        return ", ".join(map(sql_name, self.names))

    def create(self, *, typed: bool) -> str:
        columns = (f"{sql_name(name)} {self._type(name, declared, typed=typed)}" for name, declared in self.declared)
        return f"CREATE TABLE {sql_name(self.table)} ({', '.join(columns)})"

    def _type(self, name: str, declared: str, *, typed: bool) -> str:
        """A column's type; of a generated one also that it is, with no expression of its own: its values are there."""
        if name == self.key:
            return "INTEGER PRIMARY KEY"
        if not typed:
            return ""
        return f"{declared} GENERATED ALWAYS AS (NULL) STORED" if name in self.stored else declared


def shape_of(connection: sqlite3.Connection, table: str) -> Shape | None:
    declared = tuple(
        column for column in columns_of(connection, table) if column[0] not in _generated(connection, table, _VIRTUAL)
    )
    stored = frozenset(_generated(connection, table, _STORED))
    if not declared:
        return None
    kinds = connection.execute("SELECT max(type = 'view' OR wr) FROM pragma_table_list(?)", (table,)).fetchone()
    if kinds[0]:  # a view of `row_numbers` has the number in its first column
        key = next((name for name, _ in declared if name.lower() == "id"), declared[0][0])
        return Shape(table, key, declared, without_rowid=True, stored=stored)
    primary = connection.execute("SELECT name, upper(type) FROM pragma_table_xinfo(?) WHERE pk", (table,)).fetchall()
    # A primary key with an index of its own, such as INTEGER PRIMARY KEY DESC, is a column like others.
    indexed = connection.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (table,)).fetchone()
    taken = {name.lower() for name, _ in declared}
    key = next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "rowid")
    if len(primary) == 1 and primary[0][1] == "INTEGER" and not indexed:
        key = primary[0][0]
    shape = Shape(table, key, declared, stored=stored)
    try:
        # Names without the table's would be taken for texts where there is no such column.
        names = ", ".join(f"{sql_name(table)}.{sql_name(name)}" for name in shape.names)
        connection.execute(f"SELECT {names} FROM {sql_name(table)} LIMIT 0")
    except (sqlite3.OperationalError, UnicodeDecodeError) as error:  # WITHOUT ROWID, or a name that is no text
        raise corrupt(f"the columns of {table} cannot be told: {error}") from error
    return shape


#: What SQLite calls a generated column: one that holds no value of its own, whose expression may fail here, and one
#: that does.
_VIRTUAL, _STORED = 2, 3


def _generated(connection: sqlite3.Connection, table: str, kind: int) -> set[str]:
    rows = connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main') WHERE hidden = ?", (table, kind))
    return {str(name) for (name,) in rows}


class Pages:
    """One table of the damaged file. Each answer is None where there is no row, and empty where it cannot be read."""

    def __init__(self, connection: sqlite3.Connection, shape: Shape) -> None:
        self.connection = connection
        self.shape = shape
        self.key = sql_name(shape.key)
        self.select = f"SELECT {shape.columns} FROM {sql_name(shape.table)}"
        # An index may be damaged, and is never needed: these look at the table alone.
        self.select_key = f"SELECT {self.key} FROM {sql_name(shape.table)} NOT INDEXED"
        self.select_row = f"SELECT {shape.columns} FROM {sql_name(shape.table)} NOT INDEXED"

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
                raise_unless_unreadable(error)
            row = self.key_at(start, place)  # the row before the error, see `first_row`
            if row is None:
                return
            yield place, row[0] if row else None
            place += 1

    def key_at(self, start: int, place: int = 0) -> Row | None:
        query, values = self._from(self.select_key, start, place, 1)
        return first_row(self.connection, query, *values)

    def row_at(self, start: int, place: int = 0) -> Row | None:
        query, values = self._from(self.select_row, start, place, 1)
        return first_row(self.connection, query, *values)

    def row_of(self, key: int) -> Row | None:
        return first_row(self.connection, f"{self.select_row} WHERE {self.key} = ?", key)

    def has(self, key: int) -> bool:
        """Whether SQLite finds a row by this id, be its values readable or not."""
        return bool(first_row(self.connection, f"{self.select_key} WHERE {self.key} = ?", key))

    def last_key(self) -> int:
        row = first_row(self.connection, f"{self.select_key} ORDER BY {self.key} DESC LIMIT 1")
        return row[0] if row else LAST_KEY

    def _from(self, select: str, start: int, place: int, rows: int) -> tuple[str, tuple[int, ...]]:
        """A query for rows from `start` on but for the first `place` ones, of which SQLite reads no value."""
        part = f"ORDER BY {self.key} LIMIT ? OFFSET ?"
        if start == FIRST_KEY:  # SQLite takes the first page, and need not search for it among others
            return f"{select} {part}", (rows, place)
        return f"{select} WHERE {self.key} >= ? {part}", (start, rows, place)
