"""The writer: applies a rollback record to SQLite in one transaction.

No memory of SQLite gives way: a row whose id is another one's there gets a new one, and what hangs on it follows. A row
that SQLite refuses (a CHECK, a UNIQUE) is passed over and told of; the record has it.
"""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nimad.printable import said
from nimad.rollback.record import NodeReference, RecordAction, RecordLine, read_record
from nimad.source import bounds
from nimad.source.schema import EDGES, NODES, TURNS, Schema, Table, generated
from nimad.source.sql import sql_name

#: Seconds to wait for another program that writes.
BUSY_S = 30.0
#: How many times the size of a file it may take to write to it, in steps, values and memory.
_TIMES_SIZE = 4
#: New ids stay below this, whatever ids there are: a row may have SQLite's highest, and none is above that.
_FREE_KEYS = 2**62
#: The index of texts, as nima-core names it.
_INDEX = "memory_fts"


@dataclass
class WrittenRows:
    """What went into SQLite. `ids`: by table, SQLite's keys of added rows by the target's ids."""

    added: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    renamed: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, int | None, str]] = field(default_factory=list)  # table, id, why
    unindexed: str = ""  # why the index of texts could not be brought up to date
    ids: dict[str, dict[int, int]] = field(default_factory=dict)


class MemoryWriter:
    """A memory in SQLite, open for writing. `changed` says whether another program wrote to it since it was opened."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._schema = schema
        uri = f"file:{_escaped(path)}?mode=rw"
        self.connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        # A trigger may have no end; what comes back may be as large as what is there.
        bounds.limit(self.connection, _TIMES_SIZE * bounds.size_taken(path), threading.Event(), trusted=True)
        self.connection.execute("PRAGMA synchronous = FULL")
        self._version = self._now()

    def close(self) -> None:
        self.connection.close()

    def changed(self) -> bool:
        """Whether anybody else wrote since the last time that this was asked."""
        before, self._version = self._version, self._now()
        return before != self._version

    def _now(self) -> int:
        self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only a look at the file moves it
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else writes meanwhile."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def write(self, record: Path) -> WrittenRows:
        """Write what a record tells of. To be called in a transaction."""
        writer = _Writer(self.connection, self._schema)
        for table in (NODES, TURNS, EDGES):  # turns and edges hang on nodes
            writer.add_all(table, partial(_added, record, table))
        writer.change_all(line for line in read_record(record) if line.what is RecordAction.CHANGE)
        writer.index()
        return writer.written


def _added(record: Path, table: str) -> Iterator[RecordLine]:
    yield from (line for line in read_record(record) if line.what is RecordAction.ADD and line.table == table)


def _escaped(path: Path) -> str:
    return quote(str(path.resolve()))


class _Writer:
    """The statements of one transaction."""

    def __init__(self, connection: sqlite3.Connection, schema: Schema) -> None:
        self._connection = connection
        self._tables = {table.name: table for table in schema.tables()}
        self._computed = {name: set(generated(connection, name)) for name in self._tables}  # no statement sets these
        self._to_index: set[int] = set()  # nodes whose texts were changed
        self.written = WrittenRows()

    # Adding

    def add_all(self, name: str, lines: Callable[[], Iterable[RecordLine]]) -> None:
        """Add the rows of one table: first those that keep their ids, or a new one might be theirs.

        A row keeps its id where the highest id becomes no higher than by adding one row after another: SQLite gives
        out no id below its highest any more, and the agent's own ids may be moments in milliseconds.
        """
        if name not in self._tables:
            self.written.refused += [(name, line.id, f"SQLite has no table {name}") for line in lines()]
            return
        table, last, named = self._tables[name], self._highest(name), self._highest_named(name)
        limit = last + sum(1 for _ in lines())
        waiting = set[int]()
        for number, line in enumerate(lines()):
            if line.id is not None and line.id <= limit and self._is_free(table, line.id):
                self._add(table, line, line.id)
            else:
                waiting.add(number)
        key = max(last, named)
        for number, line in enumerate(lines() if waiting else ()):
            if number in waiting:
                key = next(each for each in itertools.count(key + 1) if self._is_free(table, each))
                self._add(table, line, key)

    def _is_free(self, table: Table, key: int) -> bool:
        """Whether a row may have its id in SQLite too: no row has it, and nothing that SQLite has hangs on it."""
        if key <= 0:
            return False
        wanted = f"SELECT 1 FROM {sql_name(table.name)} WHERE {sql_name(table.key)} = ?"
        if self._connection.execute(wanted, (key,)).fetchone():
            return False
        if table.name != NODES:
            return True
        return not any(
            self._connection.execute(
                f"SELECT 1 FROM {sql_name(other.name)} WHERE {sql_name(end)} = ?", (key,)
            ).fetchone()
            for other in self._tables.values()
            for end in other.ends
        )

    def _highest(self, name: str) -> int:
        """The highest id that a row has or had, as far as SQLite knows."""
        key = sql_name(self._tables[name].key)
        queries = [f"SELECT max({key}) FROM {sql_name(name)} WHERE {key} < {_FREE_KEYS}"]
        if self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
            queries.append(f"SELECT max(seq) FROM sqlite_sequence WHERE lower(name) = '{name}' AND seq < {_FREE_KEYS}")
        return self._highest_of(queries)

    def _highest_named(self, name: str) -> int:
        """The highest id that rows of other tables name, whether a row has it or not."""
        ends = [(other.name, end) for other in self._tables.values() for end in other.ends if name == NODES]
        return self._highest_of(
            f"SELECT max({sql_name(end)}) FROM {sql_name(table)} "
            f"WHERE typeof({sql_name(end)}) = 'integer' AND {sql_name(end)} < {_FREE_KEYS}"
            for table, end in ends
        )

    def _highest_of(self, queries: Iterable[str]) -> int:
        return max([0, *(self._connection.execute(query).fetchone()[0] or 0 for query in queries)])

    def _add(self, table: Table, line: RecordLine, key: int) -> None:
        try:
            values = {**self._values(table, line), table.key: key}
            names = ", ".join(map(sql_name, values))
            marks = ", ".join("?" * len(values))
            with self._savepoint():
                cursor = self._connection.execute(
                    f"INSERT INTO {sql_name(table.name)} ({names}) VALUES ({marks})", tuple(values.values())
                )
        except (sqlite3.IntegrityError, _UnknownNodeError) as error:
            self.written.refused.append((table.name, line.id, said(error)))
            return
        made = int(cursor.lastrowid or 0)
        self.written.added[table.name] = self.written.added.get(table.name, 0) + 1
        if line.id is not None:
            self.written.ids.setdefault(table.name, {})[line.id] = made
            self.written.renamed[table.name] = self.written.renamed.get(table.name, 0) + (made != line.id)

    def _values(self, table: Table, line: RecordLine) -> dict[str, Any]:
        """What SQLite's columns get. A column that the target has no value for gets none, but a default if it must."""
        strict = {
            name
            for _, name, _, not_null, default, _ in self._connection.execute(
                f"PRAGMA table_info({sql_name(table.name)})"
            )
            if not_null and default is not None
        }
        values = {column.name: line.row[column.target] for column in table.columns if column.target in line.row}
        values |= {end: self._key_of(reference) for end, reference in line.ends.items()}
        return {
            name: value
            for name, value in values.items()
            if name not in self._computed[table.name] and (value is not None or name not in strict)
        }

    def _key_of(self, reference: NodeReference) -> int:
        if reference.of == "key":
            return reference.number
        try:
            return self.written.ids[NODES][reference.number]
        except KeyError:
            raise _UnknownNodeError(f"its node {reference.number} could not be added") from None

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT row")
        try:
            yield
        except sqlite3.Error:
            if self._connection.in_transaction:  # a full or failing disk has SQLite undo the whole transaction itself
                self._connection.execute("ROLLBACK TO row")
                self._connection.execute("RELEASE row")
            raise
        self._connection.execute("RELEASE row")

    # Changing

    def change_all(self, lines: Iterable[RecordLine]) -> None:
        for line in lines:
            table = self._tables[line.table]
            try:
                ends = {end: self._key_of(reference) for end, reference in line.ends.items()}
                values = {
                    name: value
                    for name, value in {**line.row, **ends}.items()
                    if name not in self._computed[table.name]
                }
                if not values:
                    continue
                if table.name == NODES and line.key is not None:
                    self._take_from_index(line.key, values)
                changes = ", ".join(f"{sql_name(name)} = ?" for name in values)
                with self._savepoint():
                    self._connection.execute(
                        f"UPDATE {sql_name(table.name)} SET {changes} WHERE {sql_name(table.key)} = ?",
                        (*values.values(), line.key),
                    )
            except (sqlite3.IntegrityError, _UnknownNodeError) as error:
                self.written.refused.append((table.name, line.key, said(error)))
                continue
            self.written.changed[table.name] = self.written.changed.get(table.name, 0) + 1

    # The index of texts

    def _take_from_index(self, key: int, values: Mapping[str, Any]) -> None:
        """Take out what the index has of a row; it has to be told what that was, so before it changes."""
        columns = self._indexed()
        if not set(columns) & values.keys():
            return
        names, own = ", ".join(map(sql_name, columns)), sql_name(self._tables[NODES].key)
        self._into_index(
            f"INSERT INTO {_INDEX} ({_INDEX}, rowid, {names}) SELECT 'delete', {own}, {names} FROM {NODES} "
            f"WHERE {own} = ?",
            key,
        )
        self._to_index.add(key)

    def _into_index(self, statement: str, key: int) -> None:
        try:
            with self._savepoint():
                self._connection.execute(statement, (key,))
        except sqlite3.Error as error:
            if not self._connection.in_transaction:
                raise  # nothing of it is written any more, and what followed would be by itself
            self.written.unindexed = said(error)

    def _indexed(self) -> list[str]:
        """The columns of the index, where there is one that nobody keeps up to date by itself."""
        made = self._connection.execute(
            "SELECT sql FROM sqlite_master WHERE lower(name) = ? AND sql LIKE 'CREATE VIRTUAL TABLE%'", (_INDEX,)
        ).fetchone()
        triggers = self._connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = ? AND sql LIKE ?",
            (NODES, f"%{_INDEX}%"),
        ).fetchone()[0]
        if made is None or triggers:
            return []
        with suppress(sqlite3.Error):  # an SQLite without FTS5 does not even list them
            names = [row[1] for row in self._connection.execute(f"PRAGMA table_info({_INDEX})")]
            own = {column.name.lower(): column.name for column in self._tables[NODES].columns}
            return [own[name.lower()] for name in names if name.lower() in own]
        return []

    def index(self) -> None:
        """Have the agent's own search find what was added or changed."""
        keys = [*self.written.ids.get(NODES, {}).values(), *sorted(self._to_index)]
        columns = self._indexed() if keys else []
        names, own = ", ".join(map(sql_name, columns)), sql_name(self._tables[NODES].key)
        for key in keys if columns else ():
            self._into_index(
                f"INSERT INTO {_INDEX} (rowid, {names}) SELECT {own}, {names} FROM {NODES} WHERE {own} = ?", key
            )


class _UnknownNodeError(Exception):
    """A node that is to be an end was refused."""
