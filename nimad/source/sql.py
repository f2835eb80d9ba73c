"""SQL identifiers and literals, and SQLite's error messages."""

import sqlite3


def sql_name(name: str) -> str:
    """Quote an SQLite identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_in_sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def error_code(error: BaseException | None) -> int:
    """SQLite's primary code of an error; 0 of what is none of SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_of_statement(error: sqlite3.Error) -> bool:
    """Whether SQLite refuses the statement itself, and not the file, the memory or the disk."""
    return error_code(error) == sqlite3.SQLITE_ERROR
