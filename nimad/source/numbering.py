"""Numbering: an integer of its own for each row of a table that has neither an `id` nor rowids.

Such a table gets a temporary view of the same name on our connection, with one column more, called like a rowid; so
every query reads it as any other table. The number is made from the row's identity alone: the primary key, or, in a
view, what tells its rows apart. A single key that is an integer stays itself. Another's number is a digest of the key
and not its rank, which a row that comes in between would move, and with it the id of every row after it.
"""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence

from nimad.source.pages import raise_unless_unreadable
from nimad.source.schema import EDGE_ENDS, EDGES, LINKS, NODES, ROWID_NAMES, TURNS, columns_of, quoted

#: Bits of a number: JavaScript's integers have 53, and the agent counts on from the highest id.
_BITS = 52
#: What tells the rows of a view apart, which has no primary key: columns that the agent does not change.
_IDENTITY: Mapping[str, Sequence[str]] = {
    NODES: ("turn_id", "layer", "timestamp"),
    EDGES: (*EDGE_ENDS, "relation"),
    TURNS: ("turn_id",),
}
#: Columns of those tables that are ids, and not of the row itself.
_OF_OTHERS = frozenset({*EDGE_ENDS, *LINKS, "turn_id", "conversation_id"})
_FUNCTION = "nimad_number"
#: A look that costs next to nothing where, as nearly always, no table needs a number.
_MAY_NEED = "type = 'view' OR sql LIKE '%without%rowid%'"


def number_rows(connection: sqlite3.Connection) -> None:
    """Lay the views over the tables of a memory that need one."""
    marks = ", ".join("?" * len(_IDENTITY))
    query = f"SELECT lower(name) FROM sqlite_master WHERE lower(name) IN ({marks}) AND ({_MAY_NEED})"
    try:
        views = [_view_over(connection, name) for (name,) in connection.execute(query, tuple(_IDENTITY)).fetchall()]
    except UnicodeDecodeError:  # SQLite's words on a schema that is damaged
        return
    except sqlite3.DatabaseError as error:
        raise_unless_unreadable(error)  # whoever reads on comes upon the damage, and knows what to do
        return
    for view in filter(None, views):
        connection.create_function(_FUNCTION, -1, _number, deterministic=True)
        connection.execute("PRAGMA temp_store = MEMORY")  # a view needs no file, and none is made
        connection.execute(view)


def _view_over(connection: sqlite3.Connection, table: str) -> str | None:
    query = "SELECT type = 'view' OR wr FROM pragma_table_list(?) WHERE schema = 'main'"
    if connection.execute(query, (table,)).fetchone() != (1,):
        return None
    if not columns_of(connection, table):  # a view of what is gone
        return None
    columns = connection.execute(
        "SELECT name, pk FROM pragma_table_xinfo(?, 'main') WHERE hidden <> 1", (table,)
    ).fetchall()
    names = {str(name).lower(): str(name) for name, _ in columns}
    if not names or "id" in names:
        return None
    keys = [str(name) for name, place in sorted(columns, key=lambda column: column[1]) if place]
    number = _of_key(keys) if keys else _of_view(_identity(table, names))
    called = next((name for name in ROWID_NAMES if name not in names), "number")
    return (
        f"CREATE TEMP VIEW IF NOT EXISTS {quoted(table)} AS SELECT {number} AS {quoted(called)}, "
        f"{', '.join(quoted(name) for name in names.values())} FROM main.{quoted(table)}"
    )


def _identity(table: str, names: Mapping[str, str]) -> list[str]:
    """A column that is called the id of something, or those that the agent does not change, or all there are."""
    ids = [name for lower, name in names.items() if lower.endswith("_id") or lower in ROWID_NAMES]
    own = [name for name in ids if name.lower() not in _OF_OTHERS]
    return own[:1] or [names[name] for name in _IDENTITY[table] if name in names] or list(names.values())


def _of_key(keys: Sequence[str]) -> str:
    if len(keys) > 1:
        return _digest(keys)
    key = quoted(keys[0])
    return f"CASE typeof({key}) WHEN 'integer' THEN {key} ELSE {_digest(keys)} END"


def _of_view(keys: Sequence[str]) -> str:
    """As of a primary key; of rows that it does not tell apart, all but the first are numbered by their place, too."""
    apart = ", ".join(f"{quoted(key)} COLLATE BINARY" for key in keys)
    place = f"row_number() OVER (PARTITION BY {apart})"
    return f"CASE {place} WHEN 1 THEN {_of_key(keys)} ELSE {_digest(keys, place)} END"


def _digest(keys: Sequence[str], *others: str) -> str:
    parts = [part for key in keys for part in (f"typeof({quoted(key)})", f"CAST({quoted(key)} AS BLOB)")]
    return f"{_FUNCTION}({', '.join([*parts, *others])})"


def _number(*values: str | bytes | float | None) -> int:
    data = b"".join(len(part).to_bytes(4, "big") + part for part in map(_bytes, values))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> (64 - _BITS) or 1


def _bytes(value: str | bytes | float | None) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
