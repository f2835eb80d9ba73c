"""The findings of SQLite's own checks, and which of them mean damage."""

import re
import sqlite3

from nimad.source.damaged_pages import first_row, raise_unless_unreadable
from nimad.source.sql import is_of_statement, sql_name
from nimad.source.stand_ins import Reading

#: Of values, and not of pages: what a CHECK, NOT NULL or a declared type forbids can be read all the same. Releases of
#: NIMA differ in what they declare.
_OF_VALUES = re.compile(r"CHECK constraint failed|(NULL|TEXT|NUMERIC|INT|REAL|BLOB|non-\w+) value in ")
#: Told by the order of a collation, for which there is only a stand-in here.
_OF_ORDER = re.compile(r"row not in PRIMARY KEY order|row \d+ missing from index|values? out of order", re.IGNORECASE)


def faults(connection: sqlite3.Connection, table: str = "", *, thorough: bool = False) -> list[str]:
    """What is wrong with a table and its indexes, or with the whole file; empty when all is well.

    `thorough`: whether each index holds what its table does, too.
    """
    connection.execute("PRAGMA ignore_check_constraints = ON")
    check = "integrity_check" if thorough else "quick_check"
    query = f"SELECT * FROM pragma_{check}{'(?)' if table else ''}"
    values = (table,) if table else ()
    # More than the usual 100 lines. Not as that function's argument, which from SQLite 3.46 on names a table always.
    whole = query if table else f"PRAGMA {check}(10000)"
    try:
        said = [str(line) for (line,) in connection.execute(whole, values)]
    except sqlite3.DatabaseError as error:
        if isinstance(connection, Reading) and connection.provide(error):
            return faults(connection, table, thorough=thorough)
        # What it says of the pages comes first, and would be lost with the error that follows it.
        said = [*_first_line(connection, f"{query} LIMIT 1", values), *_by_reading(connection, table, error)]
    # A name in what is said of values may hold the end of a line.
    lines = [line for text in said if not _OF_VALUES.match(text) for line in text.split("\n")]
    lines = [line for line in lines if line and line != "ok" and not line.startswith("***")]
    unordered = getattr(connection, "called", ())
    return [line for line in lines if not _OF_VALUES.match(line) and not (unordered and _OF_ORDER.search(line))]


def _first_line(connection: sqlite3.Connection, query: str, values: tuple[str, ...]) -> list[str]:
    try:
        row = first_row(connection, query, *values)
    except sqlite3.OperationalError:  # nothing came before the error
        return []
    return [str(line) for line in row or ()]


def _by_reading(connection: sqlite3.Connection, table: str, error: sqlite3.DatabaseError) -> list[str]:
    """What is wrong with the pages of a table that a check cannot go through: one of its expressions fails."""
    if not is_of_statement(error):
        raise_unless_unreadable(error)
        return [str(error)]
    if not table:
        return []
    columns = connection.execute("SELECT name FROM pragma_table_info(?, 'main')", (table,))
    stored = "".join(f", sum(length({sql_name(str(name))}))" for (name,) in columns)
    try:
        connection.execute(f"SELECT count(*){stored} FROM main.{sql_name(table)} NOT INDEXED").fetchone()
    except sqlite3.DatabaseError as unread:
        raise_unless_unreadable(unread)
        return [str(unread)]
    return []
