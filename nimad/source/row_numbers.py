"""Integer keys for rows that have none: their `id` is no integer, or there is no rowid.

Such a table gets a temporary view of the same name on our connection, with one column more, called like a rowid; so
every query reads it as any other table. The number is made from the row's identity alone: the primary key, or, in a
view, what tells its rows apart. A single key that is an integer stays itself. Another's number is a digest of the key
and not its rank, which a row that comes in between would move, and with it the id of every row after it.

The view of a table in which a column does not compute in some row has that column computed row by row (`cells`).
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nimad.errors import SourceError
from nimad.source import cells
from nimad.source.damaged_pages import raise_unless_unreadable
from nimad.source.schema import EDGE_ENDS, EDGES, LINKS, NODES, ROWID_NAMES, TURNS, columns_of, computed
from nimad.source.sql import is_of_statement, sql_name
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
#: Columns that hold ids of nodes.
_ENDS: Mapping[str, Sequence[str]] = {NODES: (), EDGES: EDGE_ENDS, TURNS: tuple(LINKS)}
_TABLES = tuple(_IDENTITY)
_FUNCTION = "nimad_number"


def number_rows(connection: Reading) -> None:
    """Lay the views over the tables of a memory that need one."""
    marks = ", ".join("?" * len(_TABLES))
    query = f"SELECT lower(name), type, sql FROM sqlite_master WHERE lower(name) IN ({marks})"
    try:
        found = {name: _may_need(connection, name, *made) for name, *made in connection.execute(query, _TABLES)}
        views = list(_views(connection, [name for name, needs in found.items() if needs or found.get(NODES)]))
    except UnicodeDecodeError:  # SQLite's words on a schema that is damaged
        return
    except sqlite3.DatabaseError as error:
        raise_unless_unreadable(error)  # whoever reads on comes upon the damage, and knows what to do
        return
    for view in views:
        connection.execute("PRAGMA temp_store = MEMORY")  # a view needs no file, and none is made
        connection.execute(view)


def _may_need(connection: Reading, table: str, kind: str, sql: str) -> bool:
    """Whether a table may have to be read through a view: a look that costs next to nothing, and mostly says no."""
    made = str(sql).lower()
    if connection.computes_each_alone or kind == "view" or re.search(r"primary\s+key\s+desc\b|without\s+rowid", made):
        return True
    if made.startswith("create virtual"):
        return False
    keys = "SELECT lower(name), upper(type) FROM pragma_table_info(?, 'main') WHERE pk"
    return connection.execute(keys, (table,)).fetchall() != [("id", "INTEGER")]


def is_numbered(connection: sqlite3.Connection, table: str) -> bool:
    """Whether the ids of a table are numbers of ours, so that a row which comes later may have a lower one."""
    query = "SELECT 1 FROM sqlite_temp_master WHERE type = 'view' AND lower(name) = ? AND instr(sql, ?)"
    return connection.execute(query, (table, f"{_FUNCTION}(")).fetchone() is not None


def lift(connection: sqlite3.Connection) -> None:
    """Take the views off tables that have rowids, for who reads pages; unless nodes without rowids are numbered."""
    query = "SELECT lower(name) FROM pragma_table_list WHERE schema = ? AND type = ? AND NOT wr"
    rowids = {name for (name,) in connection.execute(query, ("main", "table"))}
    laid = {name for (name,) in connection.execute(query, ("temp", "view"))}
    if NODES in rowids or NODES not in laid:
        connection.execute("PRAGMA query_only = 0")
        for name in rowids & laid:
            connection.execute(f"DROP VIEW temp.{sql_name(name)}")


def _views(connection: Reading, tables: Sequence[str]) -> Iterator[str]:
    if tables:
        connection.create_function(_FUNCTION, -1, _number, deterministic=True)
    shapes = [shape for table in tables if (shape := _readable_shape(connection, table)) is not None]
    nodes = next((shape for shape in shapes if shape.table == NODES and shape.numbered_by), None)
    for shape in shapes:
        if view := _view_over(shape, nodes):
            yield f"DROP VIEW IF EXISTS temp.{sql_name(shape.table)}"
            yield view


@dataclass(frozen=True)
class _Shape:
    """How a table is to be read. `origin`: what its view selects from; `number`: an expression, and what it is called.

    `names`: its columns, by their names in small letters. `numbered_by`: the one column that the number is made of.
    """

    table: str
    origin: str
    names: Mapping[str, str]
    number: str = ""
    called: str = ""
    numbered_by: str = ""

    def number_of(self, reference: str) -> str:
        """The number of the row that a column of another table names by `numbered_by`."""
        if self.called in ROWID_NAMES and self.number == sql_name(self.called):
            return f"(SELECT {self.number} FROM {self.origin} WHERE {sql_name(self.numbered_by)} = {reference})"
        return _of_id(reference) if self.called == self.numbered_by else _of_key([reference])


def _readable_shape(connection: Reading, table: str) -> _Shape | None:
    """The shape of a table; None where it is one of edges or turns that cannot be read: it keeps no memory out."""
    try:
        return _shape_of(connection, table)
    except (SourceError, sqlite3.OperationalError) as error:
        is_other = isinstance(error, sqlite3.Error) and not is_of_statement(error)
        if table == NODES or not connection.computes_each_alone or is_other:
            raise
        if isinstance(error, sqlite3.Error) and connection.provide(error):
            return _readable_shape(connection, table)
        connection.unreadable[table] = str(error)
        return None


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
    if rowid or keys:
        place = [rowid] if rowid else keys
    else:  # of a table in which columns have all names of the rowid, too
        place = [names["id"]] if "id" in names else _identity(table, names)
    shape = _Shape(table, _origin(connection, table, names, place), names)
    if "id" in names:
        own = names["id"]
        is_number = _are_integers(connection, shape.origin, own)
        return shape if is_number else replace(shape, number=_of_id(sql_name(own)), called=own, numbered_by=own)
    shape = replace(
        shape, called=rowid or next((name for name in ROWID_NAMES if name not in names), _free("number", names))
    )
    if rowid:  # a number that is there, and has to be shown where other columns are computed row by row
        return replace(shape, number=sql_name(rowid), numbered_by=keys[0] if len(keys) == 1 else "")
    apart = keys or place
    is_one = len(apart) == 1 and apart[0].lower() not in _OF_OTHERS
    expressions = [sql_name(name) for name in apart]
    number = _of_key(expressions) if without_rowid else _of_view(expressions)  # another's primary key may be NULL
    return replace(shape, number=number, numbered_by=apart[0] if is_one else "")


def _are_integers(connection: Reading, origin: str, column: str) -> bool:
    """Whether the ids of a table are all integers, as those of an INTEGER PRIMARY KEY are; NULL is no id."""
    query = f"SELECT 1 FROM {origin} WHERE typeof({sql_name(column)}) NOT IN ('integer', 'null') AND NOT {{}} LIMIT 1"
    return connection.execute(query.format(cells.is_uncomputed(sql_name(column)))).fetchone() is None


def _origin(connection: Reading, table: str, names: Mapping[str, str], place: Sequence[str]) -> str:
    """A table; or a query of it in which columns that do not compute in some row are computed row by row."""
    if not connection.computes_each_alone or not place:
        return f"main.{sql_name(table)}"
    alone = cells.failing(connection, table, [name for name in computed(connection, table) if name in names.values()])
    if not alone:
        return f"main.{sql_name(table)}"
    if lost := [name for name in place if name in alone]:
        if len(alone) == len(names):  # not of that column, but of what chooses or joins the rows
            cells.raise_why(connection, table)
        raise SourceError(
            f"the column {lost[0]} of the view {table}, which tells its rows apart, does not compute in some row, and "
            "SQLite ends every reading of the view there; have the view make NULL of it in such a row, in a copy of "
            "the file, and name the copy with --source"
        )
    each = cells.each_alone(connection, table, alone, place)
    columns = [f"{each[name]} AS {sql_name(name)}" if name in each else sql_name(name) for name in names.values()]
    more = [sql_name(name) for name in place if name.lower() not in names]
    query = f"(SELECT {', '.join([*more, *columns])} FROM main.{sql_name(table)})"
    return query if more else cells.copied_where_needed(connection, table, list(names.values()), query)


def _view_over(shape: _Shape, nodes: _Shape | None) -> str:
    """The view that is laid over a table; empty where it needs none. `nodes`: those that others may name by a text."""
    is_read_alone = shape.origin.startswith("(")
    columns = {name: sql_name(name) for name in shape.names.values()}
    ends = [shape.names[end] for end in _ENDS[shape.table] if end in shape.names]
    if nodes is not None:
        columns |= {end: _end(sql_name(end), nodes) for end in ends}
    if not (is_read_alone or (nodes is not None and ends) or _FUNCTION in shape.number):
        return ""
    listed = [f"{expression} AS {sql_name(name)}" for name, expression in columns.items()]
    if shape.number:
        listed = [each for name, each in zip(columns, listed, strict=True) if name != shape.called]
        if shape.called in columns:  # the ids of the file are kept
            listed.insert(0, f"{sql_name(shape.called)} AS {sql_name(_free('id_', shape.names))}")
        listed.insert(0, f"{shape.number} AS {sql_name(shape.called)}")
    return f"CREATE TEMP VIEW {sql_name(shape.table)} AS SELECT {', '.join(listed)} FROM {shape.origin}"


def _end(end: str, nodes: _Shape) -> str:
    """An end of an edge or a turn: the number of the node whose id it names, or what it is."""
    known = f"{end} IN (SELECT {sql_name(nodes.numbered_by)} FROM {nodes.origin})"
    return f"CASE WHEN typeof({end}) IN ('text', 'blob', 'real') AND {known} THEN {nodes.number_of(end)} ELSE {end} END"


def _free(name: str, names: Mapping[str, str]) -> str:
    while name.lower() in names:
        name += "_"
    return name


def _identity(table: str, names: Mapping[str, str]) -> list[str]:
    """A column that is called the id of something, or those that the agent does not change, or all there are."""
    ids = [name for lower, name in names.items() if lower.endswith("_id") or lower in ROWID_NAMES]
    own = [name for name in ids if name.lower() not in _OF_OTHERS]
    return own[:1] or [names[name] for name in _IDENTITY[table] if name in names] or list(names.values())


def _of_id(value: str) -> str:
    """An id that is an integer, or says one as SQLite writes it; of any other but NULL the digest."""
    whole = f"CAST({value} AS INTEGER)"
    as_text = f"typeof({value}) = 'text' AND CAST({whole} AS TEXT) = {value} COLLATE BINARY"
    return (
        f"CASE WHEN typeof({value}) IN ('integer', 'null') OR {cells.is_uncomputed(value)} THEN {value} "
        f"WHEN (typeof({value}) = 'real' AND {whole} = {value}) OR ({as_text}) THEN {whole} "
        f"ELSE {_digest([value])} END"
    )


def _of_key(keys: Sequence[str]) -> str:
    if len(keys) > 1:
        return _digest(keys)
    return f"CASE typeof({keys[0]}) WHEN 'integer' THEN {keys[0]} ELSE {_digest(keys)} END"


def _of_view(keys: Sequence[str]) -> str:
    """As of a primary key; of rows that it does not tell apart, all but the first are numbered by their place, too."""
    apart = ", ".join(f"{key} COLLATE BINARY" for key in keys)
    place = f"row_number() OVER (PARTITION BY {apart})"
    return f"CASE {place} WHEN 1 THEN {_of_key(keys)} ELSE {_digest(keys, place)} END"


def _digest(keys: Sequence[str], *others: str) -> str:
    parts = [part for key in keys for part in (f"typeof({key})", f"CAST({key} AS BLOB)")]
    return f"{_FUNCTION}({', '.join([*parts, *others])})"


def _number(*values: str | bytes | float | None) -> int:
    data = b"".join(len(part).to_bytes(4, "big") + part for part in map(_bytes, values))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> (64 - _BITS) or 1


def _bytes(value: str | bytes | float | None) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
