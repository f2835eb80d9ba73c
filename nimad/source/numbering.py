"""Numbering: an integer of its own for each row of a table that has neither an `id` nor rowids.

Such a table gets a temporary view of the same name on our connection, with one column more, called like a rowid; so
every query reads it as any other table. The number is made from the row's identity alone: the primary key, or, in a
view, what tells its rows apart. A single key that is an integer stays itself. Another's number is a digest of the key
and not its rank, which a row that comes in between would move, and with it the id of every row after it.

The view of a table in which a column does not compute in some row has that column computed row by row (`cells`).
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nimad.errors import SourceError
from nimad.source import cells
from nimad.source.pages import raise_unless_unreadable
from nimad.source.schema import EDGE_ENDS, EDGES, LINKS, NODES, ROWID_NAMES, TURNS, columns_of, computed, quoted
from nimad.source.stand_ins import Reading

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
#: What may have to be read through a view: a look that costs next to nothing where, as nearly always, none is.
_MAY_NEED = (
    "type = 'view' OR sql LIKE '%without%rowid%' OR sql LIKE '%desc%' OR NOT EXISTS (SELECT 1 FROM "
    "pragma_table_info(name, 'main') WHERE pk = 1 AND lower(name) = 'id' AND upper(type) = 'INTEGER')"
)


def number_rows(connection: Reading) -> None:
    """Lay the views over the tables of a memory that need one."""
    marks = ", ".join("?" * len(_IDENTITY))
    needed = "1" if connection.computes_each_alone else _MAY_NEED
    query = f"SELECT lower(name) FROM sqlite_master WHERE lower(name) IN ({marks}) AND ({needed})"
    try:
        views = list(_views(connection, [name for (name,) in connection.execute(query, tuple(_IDENTITY)).fetchall()]))
    except UnicodeDecodeError:  # SQLite's words on a schema that is damaged
        return
    except sqlite3.DatabaseError as error:
        raise_unless_unreadable(error)  # whoever reads on comes upon the damage, and knows what to do
        return
    for view in views:
        connection.execute("PRAGMA temp_store = MEMORY")  # a view needs no file, and none is made
        connection.execute(view)


def _views(connection: Reading, tables: Sequence[str]) -> Iterator[str]:
    if tables:
        connection.create_function(_FUNCTION, -1, _number, deterministic=True)
    shapes = [shape for table in tables if (shape := _shape_of(connection, table)) is not None]
    for shape in shapes:
        if view := _view_over(shape):
            yield f"DROP VIEW IF EXISTS temp.{quoted(shape.table)}"
            yield view


@dataclass(frozen=True)
class _Shape:
    """How a table is to be read. `origin`: what its view selects from; `number`: an expression, and what it is called.

    `names`: its columns, by their names in small letters.
    """

    table: str
    origin: str
    names: Mapping[str, str]
    number: str = ""
    called: str = ""


def _shape_of(connection: Reading, table: str) -> _Shape | None:
    query = "SELECT type, wr FROM pragma_table_list(?) WHERE schema = 'main'"
    kind, without_rowid = connection.execute(query, (table,)).fetchone() or ("", 0)
    if kind not in ("table", "view") or not columns_of(connection, table):  # a view of what is gone
        return None
    columns = connection.execute(
        "SELECT name, pk FROM pragma_table_xinfo(?, 'main') WHERE hidden <> 1", (table,)
    ).fetchall()
    columns = [(name, place) for name, place in columns if isinstance(name, str)]
    names = {name.lower(): name for name, _ in columns}
    if not names:
        return None
    keys = [name for name, place in sorted(columns, key=lambda column: column[1]) if place]
    rowid = "" if kind == "view" or without_rowid else next((each for each in ROWID_NAMES if each not in names), "")
    if kind == "view":
        place = [names["id"]] if "id" in names else _identity(table, names)
    else:
        place = keys if without_rowid else [rowid][: bool(rowid)]
    origin = _origin(connection, table, names, place)
    if "id" in names:
        return _Shape(table, origin, names)
    called = rowid or next((name for name in ROWID_NAMES if name not in names), "number")
    if rowid:  # needed where a column is computed row by row, and nowhere else
        return _Shape(table, origin, names, quoted(rowid) if origin.startswith("(") else "", called)
    return _Shape(table, origin, names, _of_key(keys) if keys else _of_view(place), called)


def _origin(connection: Reading, table: str, names: Mapping[str, str], place: Sequence[str]) -> str:
    """A table; or a query of it in which columns that do not compute in some row are computed row by row."""
    if not connection.computes_each_alone or not place:
        return f"main.{quoted(table)}"
    alone = cells.failing(connection, table, [name for name in computed(connection, table) if name in names.values()])
    if not alone:
        return f"main.{quoted(table)}"
    if lost := [name for name in place if name in alone]:
        raise SourceError(
            f"the column {lost[0]} of the view {table}, which tells its rows apart, does not compute in some row, and "
            "SQLite ends every reading of the view there; have the view make NULL of it in such a row, in a copy of "
            "the file, and name the copy with --source"
        )
    each = cells.each_alone(connection, table, alone, place)
    columns = [f"{each[name]} AS {quoted(name)}" if name in each else quoted(name) for name in names.values()]
    more = [quoted(name) for name in place if name.lower() not in names]
    return f"(SELECT {', '.join([*more, *columns])} FROM main.{quoted(table)})"


def _view_over(shape: _Shape) -> str:
    """The view that is laid over a table; empty where it needs none."""
    if not shape.number and not shape.origin.startswith("("):
        return ""
    columns = [quoted(name) for name in shape.names.values()]
    if shape.number:
        columns.insert(0, f"{shape.number} AS {quoted(shape.called)}")
    return f"CREATE TEMP VIEW {quoted(shape.table)} AS SELECT {', '.join(columns)} FROM {shape.origin}"


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
