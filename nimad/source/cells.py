"""Cells that fail: invalid text and failing expressions, read one at a time so that only they are lost.

Where the expression of a generated column, or of a view, fails in one row, SQLite ends the whole statement. Such a
column is read by a function of ours, which asks for one row at a time. What it cannot give it marks, and the mark
becomes an `Uncomputed` on its way to Python.
"""

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nimad.printable import said
from nimad.source.sql import is_of_statement, sql_name, text_in_sql
from nimad.source.stand_ins import Reading, called

#: What no file can hold: each process has its own.
_MARK = f"nimad {secrets.token_hex(16)} "
_NO_TEXT, _NO_VALUE = "text ", "value "


@dataclass(frozen=True)
class InvalidText:
    """A TEXT value whose bytes are no UTF-8."""

    raw: bytes

    @property
    def readable(self) -> str:
        """The text with U+FFFD for each bad byte."""
        return self.raw.decode(errors="replace")


@dataclass(frozen=True)
class Uncomputed:
    """What stands where a value does not compute, and why it does not."""

    why: str


def text(raw: bytes) -> str | InvalidText:
    """What a connection makes of SQLite's texts."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return InvalidText(raw)


def _text_or_mark(raw: bytes) -> str | InvalidText | Uncomputed:
    found = text(raw)
    if isinstance(found, str) and found.startswith(_MARK):
        said_of_it = found.removeprefix(_MARK)
        if said_of_it.startswith(_NO_TEXT):
            return InvalidText(bytes.fromhex(said_of_it.removeprefix(_NO_TEXT)))
        return Uncomputed(said_of_it.removeprefix(_NO_VALUE))
    return found


def is_uncomputed(name: str) -> str:
    """A condition in SQL: the column of this name does not compute in a row."""
    mark = f"{_MARK}{_NO_VALUE}"
    return f"substr({name}, 1, {len(mark)}) IS '{mark}'"


def failing(connection: Reading, table: str, columns: Sequence[str]) -> list[str]:
    """Which columns of a table do not compute in some row."""
    return [column for column in columns if _fails(connection, table, column)]


def _fails(connection: Reading, table: str, column: str) -> bool:
    try:
        # Of a column that is declared NOT NULL, SQLite would count the values without computing them; and of a view
        # that joins others by UNION ALL, an aggregate computes all columns.
        connection.execute(f"SELECT 1 FROM main.{sql_name(table)} WHERE typeof({sql_name(column)}) = ''").fetchone()
    except sqlite3.OperationalError as error:
        if not is_of_statement(error):
            raise
        return not connection.provide(error) or _fails(connection, table, column)
    return False


def raise_why(connection: Reading, table: str) -> None:
    """Raise SQLite's error with why no row of a view can be read, where none can, whichever column is asked for."""
    connection.called.clear()
    try:
        connection.execute(f"SELECT count(*) FROM main.{sql_name(table)}").fetchone()
    except sqlite3.OperationalError as error:
        why = sqlite3.OperationalError(_why(connection, error))
        why.sqlite_errorcode = error.sqlite_errorcode
        raise why from error


def each_alone(connection: Reading, table: str, columns: Sequence[str], place: Sequence[str]) -> dict[str, str]:
    """By column, an expression that computes it row by row. `place`: the columns that tell the rows apart."""
    connection.text_factory = _text_or_mark
    condition = " AND ".join(f"{sql_name(name)} IS ?" for name in place)

    def cell(column: str, *values: Any) -> Any:
        query = f"SELECT {sql_name(column)} FROM main.{sql_name(table)} WHERE {condition} LIMIT 2"
        return _computed(connection, query, values)

    function = f"nimad_cell_{secrets.token_hex(8)}"  # that no schema can name
    connection.create_function(function, 1 + len(place), cell)
    named = ", ".join(map(sql_name, place))
    return {column: f"{function}({text_in_sql(column)}, {named})" for column in columns}


def copied_where_needed(connection: Reading, table: str, names: Sequence[str], query: str) -> str:
    """A query that gives what `query` of a table, in brackets, does, in any statement.

    Of a view that joins others by UNION ALL, SQLite computes all columns for some statements, whatever they ask for: of
    such a one the rows are copied into a table in memory.
    """
    try:
        connection.execute(f"SELECT max(typeof({sql_name(names[0])})) FROM {query}").fetchone()
    except sqlite3.OperationalError as error:
        if not is_of_statement(error):
            raise
    else:
        return query
    copy, columns = f"temp.{sql_name(f'nimad_{table}')}", ", ".join(map(sql_name, names))
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"DROP TABLE IF EXISTS {copy}")
    connection.execute(f"CREATE TABLE {copy} ({columns})")  # of no types, which would change values
    connection.execute(f"INSERT INTO {copy} {query[1:-1]}")
    return f"(SELECT * FROM {copy})"


def _computed(connection: Reading, query: str, values: Sequence[Any]) -> Any:
    rows: list[tuple[Any]] = []
    before = set(connection.called)
    try:
        used = called(connection, lambda: rows.extend(connection.execute(query, values).fetchall()))
    except sqlite3.Error as error:
        if not is_of_statement(error):
            connection.beneath = error
            raise
        return f"{_MARK}{_NO_VALUE}{_why(connection, error)}"
    finally:
        connection.called.clear()
        connection.called |= before
    if used or len(rows) != 1:
        return f"{_MARK}{_NO_VALUE}{_needed(used) if used else 'nothing tells its row from others'}"
    value = rows[0][0]
    return f"{_MARK}{_NO_TEXT}{value.raw.hex()}" if isinstance(value, InvalidText) else value


def _why(connection: Reading, error: sqlite3.Error) -> str:
    return _needed(connection.called) if connection.called else said(error)


def _needed(stand_ins: set[str]) -> str:
    return f"it needs the {min(stand_ins)}, which only the agent's program has"
