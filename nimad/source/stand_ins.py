"""Stand-ins for collations and functions that only the agent's own connections define.

A collation, a function, or a definition in the syntax of a newer SQLite keeps whole tables from being read, although
no memory needs it. A stand-in lets SQLite read past it. Nothing that a stand-in computes is ever taken for a value:
`Reading.called` says that one was used.
"""

import re
import sqlite3
from collections.abc import Callable
from typing import Any

from nimad.source.sql import error_code, is_of_statement

#: The tables that may be migrated.
TABLES = ("memory_nodes", "memory_edges", "memory_turns")
_COLLATION = re.compile(r"\bCOLLATE\s+(\"(?:[^\"]|\"\")+\"|`[^`]+`|\[[^\]]+\]|\w+)", re.IGNORECASE)
#: SQLite's own; its list of collations has those, too, that it only heard of in the schema.
_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
_NAMED_COLLATION = re.compile(r"no such collation sequence: (.+)")
_NAMED_FUNCTION = re.compile(r"(?:unknown|no such) function: (.+?)(?:\(\))?")
#: SQLite's own functions of JSON, which do nothing but compute: up to 3.40 it does not say so of them itself.
_UNSAFE_JSON = re.compile(r"unsafe use of (?:json\w*|->>?)\(\)")


class Reading(sqlite3.Connection):
    """A connection that only reads. `called`: stand-ins that were asked for something since this was last emptied."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.called: set[str] = set()
        self._given: set[str] = set()
        self.unreadable: dict[str, str] = {}  # views of edges or turns that end at some row, and why
        self.beneath: sqlite3.Error | None = None  # why a function of ours failed, which SQLite does not say

    def provide(self, error: sqlite3.Error) -> bool:
        """Provide a stand-in for what an error says is missing; False where there is none to provide."""
        try:
            return self._provide(error)
        except sqlite3.Error:  # the schema itself cannot be read, as the error says already
            return False

    def _provide(self, error: sqlite3.Error) -> bool:
        code = error_code(error)
        if _UNSAFE_JSON.search(str(error)):
            return self._new("JSON") and self._trust()
        if code == sqlite3.SQLITE_CORRUPT and str(error).startswith("malformed database schema"):
            return self._new("schema") and self._reads_past()
        if code != sqlite3.SQLITE_ERROR:
            return False
        if function := _NAMED_FUNCTION.fullmatch(str(error)):
            return self._function(function[1])
        fresh = [self._collation(name) for name in self._missing_collations(str(error))]
        return any(fresh) and self._parse_anew()

    def _new(self, name: str) -> bool:
        fresh = name not in self._given
        self._given.add(name)
        return fresh

    def _function(self, name: str) -> bool:
        def fail(*_: Any) -> None:
            self.called.add(f"function {name}")
            raise ValueError(name)

        if not self._new(f"function {name}"):
            return False
        self.create_function(name, -1, fail, deterministic=True)  # an index takes no other
        return self._trust()

    def _trust(self) -> bool:
        """Let the schema call functions of ours and of JSON, which do nothing: Python cannot vouch for one alone.

        What else SQLite does not vouch for fails on this connection (`bounds.limit`), and no view reads from a virtual
        table, which trust would let it.
        """
        self.execute("PRAGMA trusted_schema = ON")  # first: the schema itself may not be read without
        if self._new("trust"):
            found = self.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'create virtual %'").fetchall()
            virtual = {str(name).lower() for (name,) in found} - set(TABLES)
            self.set_authorizer(lambda *asked: _allows(virtual, *asked))
        return True

    def _missing_collations(self, message: str) -> set[str]:
        """Those that the message names, or, where SQLite only says that it finds no way, those of the schema."""
        if named := _NAMED_COLLATION.fullmatch(message):
            return {named[1]}
        texts = self.execute("SELECT sql FROM sqlite_master WHERE sql LIKE '%collate%'").fetchall()
        named_ones = (_unquoted(name) for (text,) in texts for name in _COLLATION.findall(str(text)))
        return {name for name in named_ones if name.upper() not in _COLLATIONS}

    def _collation(self, name: str) -> bool:
        def bytewise(one: str, other: str) -> int:
            self.called.add(f"collation {name}")
            return (one > other) - (one < other)

        if not self._new(f"collation {name.upper()}"):
            return False
        self.create_collation(name, bytewise)
        return True

    def _parse_anew(self) -> bool:
        """Have SQLite parse the schema again: a primary key whose collation it lacked stays without an order else."""
        self.execute("PRAGMA writable_schema = RESET")  # which also ends what makes it pass over definitions
        if self.reads_past_definitions:
            self.execute("PRAGMA writable_schema = ON")
        return True

    def _reads_past(self) -> bool:
        """Skip definitions that this SQLite cannot parse, unless one of them is of a table that is to be read."""
        self.execute("PRAGMA writable_schema = ON")  # which makes the parser pass over them; nothing is written
        marks = ", ".join("?" * len(TABLES))
        query = (
            "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view') "
            f"AND lower(name) IN ({marks}) AND NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(sqlite_master.name))"
        )
        try:
            ours = self.execute(query, TABLES).fetchone()[0]
        except sqlite3.DatabaseError:
            ours = 1
        if ours:
            self.execute("PRAGMA writable_schema = OFF")
        return not ours

    def compute_each_alone(self, error: sqlite3.Error) -> bool:
        """Have columns that do not compute in some row computed row by row, from the next `number_rows` on."""
        return is_of_statement(error) and self._new("cells")

    @property
    def computes_each_alone(self) -> bool:
        """Whether columns that do not compute in some row are computed row by row."""
        return "cells" in self._given

    @property
    def reads_past_definitions(self) -> bool:
        """Whether definitions are skipped that this SQLite cannot parse."""
        return "schema" in self._given


def _allows(virtual: set[str], action: int, table: str | None, _: object, __: object, view: str | None) -> int:
    is_read = action == sqlite3.SQLITE_READ and table is not None
    return sqlite3.SQLITE_DENY if is_read and view and str(table).lower() in virtual else sqlite3.SQLITE_OK


def _unquoted(name: str) -> str:
    if name[0] in '"`[':
        return name[1:-1].replace('""', '"')
    return name


def called(connection: sqlite3.Connection, work: Callable[[], object]) -> set[str]:
    """The stand-ins that `work` made SQLite use."""
    if not isinstance(connection, Reading):
        work()
        return set()
    connection.called.clear()
    work()
    return set(connection.called)
