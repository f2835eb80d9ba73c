"""The source's columns: their names and types in the target, decided once per run."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from nimad.printable import said
from nimad.source.cells import Uncomputed, is_uncomputed
from nimad.source.sql import is_of_statement, sql_name
from nimad.source.stand_ins import Reading, called

NODES = "memory_nodes"
EDGES = "memory_edges"
TURNS = "memory_turns"

#: Floats in an embedding when no row has one: NIMA's own default.
DEFAULT_DIMENSION = 512
FLOAT_BYTES = 4
INT64_MIN = -(2**63)


class ValueKind(StrEnum):
    """A column's type in the target."""

    INT64 = "INT64"
    DOUBLE = "DOUBLE"
    STRING = "STRING"
    BOOL = "BOOL"
    BLOB = "BLOB"
    VECTOR = "VECTOR"


class Width(StrEnum):
    """How the numbers of an embedding are stored, other than as floats of 32 bits."""

    DOUBLE = "float64"
    HALF = "float16"
    MIXED = "mixed"  # some as floats of 64 bits, others of 32: each is told by its own numbers
    UNKNOWN = "unknown"  # as floats of no width do they make sense


@dataclass(frozen=True)
class Column:
    """One column of the source and what it is called and typed in the target.

    `default`: what a NULL becomes, and a value that has no place; None where it stays NULL. `is_moment`: it holds
    milliseconds since the epoch. `is_computed`: SQLite generates its values, and takes none.
    """

    name: str
    target: str
    kind: ValueKind
    default: "Default | None" = None
    is_moment: bool = False
    is_computed: bool = False


@dataclass(frozen=True)
class Table:
    """One table of the source. `key` is the column that orders it: `id`, or a name of its rowid where there is none."""

    name: str
    key: str
    columns: tuple[Column, ...]  # without the key and without the ends of edges and turns
    ends: tuple[str, ...] = ()  # columns that hold ids of nodes
    left_out: tuple[str, ...] = ()  # generated columns that cannot be computed here


@dataclass(frozen=True)
class Schema:
    """All that is migrated. `dimension`: floats in an embedding.

    `widths`: how embeddings of so many bytes are stored, where they are not floats of 32 bits. `least`: the smallest
    INT64 that the engine which writes can hold.
    """

    nodes: Table
    edges: Table | None
    turns: Table | None
    dimension: int
    widths: Mapping[int, Width] = field(default_factory=dict)
    least: int = INT64_MIN

    def tables(self) -> tuple[Table, ...]:
        return tuple(table for table in (self.nodes, self.edges, self.turns) if table is not None)

    def table(self, name: str) -> Table:
        return next(table for table in self.tables() if table.name == name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Schema":
        return cls(
            nodes=_table_from_json(data["nodes"]),
            edges=_table_from_json(data["edges"]) if data["edges"] else None,
            turns=_table_from_json(data["turns"]) if data["turns"] else None,
            dimension=data["dimension"],
            widths={int(size): Width(width) for size, width in data.get("widths", {}).items()},
            least=data.get("least", INT64_MIN),
        )


def _table_from_json(data: Mapping[str, Any]) -> Table:
    columns = tuple(replace(Column(**item), kind=ValueKind(item["kind"])) for item in data["columns"])
    return Table(data["name"], data["key"], columns, tuple(data["ends"]), tuple(data.get("left_out", ())))


#: MemoryNode as nima-core's readers declare it, but for `strength` and `decay_rate`: the readers say FLOAT, we
#: keep the source's 64 bits. A FLOAT column answers `strength >= 0.95` with no row where SQLite gives all.
NODE_KINDS: Mapping[str, ValueKind] = {
    "timestamp": ValueKind.INT64,
    "layer": ValueKind.STRING,
    "text": ValueKind.STRING,
    "summary": ValueKind.STRING,
    "who": ValueKind.STRING,
    "affect_json": ValueKind.STRING,
    "session_key": ValueKind.STRING,
    "conversation_id": ValueKind.STRING,
    "turn_id": ValueKind.STRING,
    "fe_score": ValueKind.DOUBLE,
    "embedding": ValueKind.VECTOR,
    "strength": ValueKind.DOUBLE,
    "decay_rate": ValueKind.DOUBLE,
    "last_accessed": ValueKind.INT64,
    "is_ghost": ValueKind.BOOL,
    "dismissal_count": ValueKind.INT64,
    "recall_count": ValueKind.INT64,
    "memory_type": ValueKind.STRING,
    "importance": ValueKind.DOUBLE,
    "emotions": ValueKind.STRING,
    "themes": ValueKind.STRING,
    "source_agent": ValueKind.STRING,
    "model": ValueKind.STRING,
    "created_at": ValueKind.STRING,
}
Default = bool | int | float
#: The agent's own defaults of MemoryNode: what its INSERTs rely on. Its readers ask for `is_ghost = false`, which NULL
#: never is, and add to figures, which leaves NULL a NULL.
NODE_DEFAULTS: Mapping[str, Default] = {
    "strength": 1.0,
    "decay_rate": 0.01,
    "last_accessed": 0,
    "is_ghost": False,
    "dismissal_count": 0,
    "recall_count": 0,
}
#: Columns in which the agent's code reads a NULL of SQLite as the default, and so do we.
FILLED_COLUMNS = ("strength", "decay_rate", "last_accessed", "is_ghost", "dismissal_count")
EDGE_KINDS: Mapping[str, ValueKind] = {
    "relation": ValueKind.STRING,
    "weight": ValueKind.DOUBLE,
    "created_at": ValueKind.STRING,
}
TURN_KINDS: Mapping[str, ValueKind] = {
    "turn_id": ValueKind.STRING,
    "timestamp": ValueKind.INT64,
    "affect_json": ValueKind.STRING,
    "created_at": ValueKind.STRING,
}


def is_own(table: Table, column: Column) -> bool:
    """Whether a column is the user's own, and none that a release of NIMA has."""
    return column.target not in {NODES: NODE_KINDS, EDGES: EDGE_KINDS, TURNS: TURN_KINDS}[table.name]


EDGE_ENDS = ("source_id", "target_id")
#: What each table becomes.
TARGET_TABLES: Mapping[str, str] = {NODES: "MemoryNode", EDGES: "relates_to", TURNS: "Turn"}
#: A turn's links, by the column of the source that holds the node's id.
LINKS: Mapping[str, str] = {
    "input_node_id": "has_input",
    "contemplation_node_id": "has_contemplation",
    "output_node_id": "has_output",
}

#: Names the engine keeps for itself. It fills `rowid` with the place of a row, and `from` and `to` of a relationship
#: table with the ends' ids, whatever COPY gave it, and reports success (measured with 0.22.0).
_RESERVED = frozenset({"_id", "_label", "_src", "_dst", "rowid"})
_RESERVED_IN_EDGES = _RESERVED | {"from", "to", "edge_id"}


#: The engine up to 0.15.3 stores a name with a backtick as one with two. One name whichever engine writes, so that any
#: command finds it.
_FOR_BACKTICK = "'"


#: What SQLite calls the number of a row, unless a column has that name.
ROWID_NAMES = ("rowid", "_rowid_", "oid")


def key_of(names: Iterable[str]) -> str:
    """The key of a table of rowids with these columns."""
    by_name = {name.lower(): name for name in names}
    return by_name.get("id") or next((name for name in ROWID_NAMES if name not in by_name), "rowid")


def _key_of(connection: sqlite3.Connection, table: str, names: Sequence[str]) -> str:
    """The key of any table: one without rowids has its number in the first column of a view (`row_numbers`)."""
    if "id" in map(str.lower, names):
        return key_of(names)
    numbered = "SELECT 1 FROM sqlite_temp_master WHERE type = 'view' AND lower(name) = ?"
    if connection.execute(numbered, (table,)).fetchone():
        return names[0]
    primary = "SELECT name FROM pragma_table_info(?) WHERE pk AND upper(type) = 'INTEGER' AND lower(name) = 'rowid'"
    declared = connection.execute(primary, (table,)).fetchone()
    return str(declared[0]) if declared else key_of(names)


def columns_of(connection: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    """Name and declared type of each column, in the file's order; empty when there is no such table.

    A column whose name is no UTF-8 is not among them: SQL is text, and cannot spell it.
    """
    try:
        rows = _columns(connection, table)
    except sqlite3.OperationalError as error:
        if table not in (EDGES, TURNS) or not is_of_statement(error):
            raise
        if isinstance(connection, Reading) and connection.provide(error):
            return columns_of(connection, table)
        return []  # `why_undefined` says why
    return [(name, declared if isinstance(declared, str) else "") for name, declared in rows if isinstance(name, str)]


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[Any, Any]]:
    if isinstance(connection, Reading) and table in connection.unreadable:
        error = sqlite3.OperationalError(connection.unreadable[table])
        error.sqlite_errorcode = sqlite3.SQLITE_ERROR
        raise error
    # xinfo is table_info and the generated columns; 1 marks a virtual table's hidden ones, which hold no data.
    rows = connection.execute("SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden <> 1", (table,)).fetchall()
    is_view = "SELECT 1 FROM sqlite_master WHERE type = 'view' AND lower(name) = ?"
    if table in (EDGES, TURNS) and connection.execute(is_view, (table,)).fetchone():
        connection.execute(f"SELECT * FROM {sql_name(table)} LIMIT 0")  # a view may have columns, and give no row
    return rows


def why_undefined(connection: sqlite3.Connection, table: str) -> str:
    """Why a table of edges or turns has no columns; empty where it has some.

    A view of what is gone, or every reading of which ends at some row; or a module that is not here.
    """
    try:
        _columns(connection, table)
    except sqlite3.OperationalError as error:
        return said(error)
    return ""


def moved_columns(connection: sqlite3.Connection, table: Table) -> list[str]:
    """Which columns came, and then which went, since a table was read."""
    now = {name for name, _ in columns_of(connection, table.name)} - {table.key}
    then = {*table.ends, *(column.name for column in table.columns), *table.left_out}
    return [*(f"{name} came" for name in sorted(now - then)), *(f"{name} went" for name in sorted(then - now))]


def with_columns(known: Table, now: Table, leave: Collection[str] = ()) -> Table:
    """A table with the columns that it has now: those that it had keep their names, others come after them.

    `leave`: names of columns that are to be left out.
    """
    there = {column.name for column in now.columns}
    kept = [column for column in known.columns if column.name in there and column.name not in leave]
    taken = {column.target.lower() for column in known.columns}
    names = {column.name for column in known.columns}
    for column in now.columns:
        if column.name not in names and column.name not in leave and column.target.lower() not in taken:
            taken.add(column.target.lower())
            kept.append(column)
    return replace(known, columns=tuple(kept), ends=tuple(end for end in known.ends if end in now.ends))


def read_table(
    connection: sqlite3.Connection, name: str, known: Mapping[str, ValueKind], ends: tuple[str, ...] = ()
) -> Table | None:
    """What table `name` becomes, or None when the source has no such table, or not the ends it needs."""
    declared = columns_of(connection, name)
    if not declared:
        return None
    made = generated(connection, name)
    # A row's id and ends are its identity: where they fail, that row alone has none.
    told = {"id", *ends}
    left_out = tuple(each for each in made if each.lower() not in told and why_not_computed(connection, name, each))
    declared = [(column, kind) for column, kind in declared if column not in left_out]
    key = _key_of(connection, name, [column for column, _ in declared])
    by_name = {column.lower(): column for column, _ in declared}
    present_ends = tuple(by_name[end] for end in ends if end in by_name)
    carried = [(column, kind) for column, kind in declared if column != key and column not in present_ends]
    taken: set[str] = {"id"}
    reserved = _RESERVED_IN_EDGES if name == EDGES else _RESERVED
    columns = []
    for column, declared_type in carried:
        kind = known.get(column.lower()) or _nearest_kind(connection, name, column, declared_type)
        target = _free_name(column, known, reserved, taken)
        taken.add(target.lower())
        is_filled = name == NODES and target in FILLED_COLUMNS
        is_moment = name in (NODES, TURNS) and target == "timestamp"
        default = NODE_DEFAULTS[target] if is_filled else None
        columns.append(Column(column, target, kind, default, is_moment, column in made))
    return Table(name, key, tuple(columns), present_ends, left_out)


def generated(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table that SQLite computes: those of a view all."""
    rows = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden IN (2, 3) "
        "OR EXISTS (SELECT 1 FROM pragma_table_list(?1) WHERE schema = 'main' AND type = 'view')",
        (table,),
    )
    return [str(name) for (name,) in rows]


def computed(connection: sqlite3.Connection, table: str) -> list[str]:
    """Of these, the columns whose values are not in the file, so that reading them may fail."""
    rows = connection.execute("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 3", (table,))
    stored = {str(name) for (name,) in rows}
    return [name for name in generated(connection, table) if name not in stored]


def why_not_computed(connection: sqlite3.Connection, table: str, column: str) -> str:
    """Why a generated column has no value in any row here; empty where it has one, or nothing to compute.

    Its expression may fail, as that of a JSON path does over text that is no JSON, or need a function or a collation
    that only the agent's own connection has. Of an expression that it refuses, SQLite makes NULL where it passes over
    such definitions. Raises SQLite's error unless columns are computed row by row.
    """
    name, lost = sql_name(column), _is_lost(connection, column)
    values = f"coalesce(sum(typeof({name}) <> 'null' AND NOT {lost}), 0)"
    why = ""

    def compute() -> None:
        nonlocal why
        try:
            found, failed = connection.execute(
                f"SELECT {values}, coalesce(sum({lost}), 0) FROM {sql_name(table)}"
            ).fetchone()
            if failed and not found:
                query = f"SELECT {name} FROM {sql_name(table)} WHERE {lost} LIMIT 1"
                value = connection.execute(query).fetchone()[0]
                why = value.why if isinstance(value, Uncomputed) else ""
            elif not found and isinstance(connection, Reading) and connection.reads_past_definitions:
                why = f"SQLite {sqlite3.sqlite_version} refuses its expression"
        except sqlite3.OperationalError as error:
            if not is_of_statement(error):
                raise
            if isinstance(connection, Reading) and connection.provide(error):
                compute()
            elif isinstance(connection, Reading) and not connection.computes_each_alone:
                raise  # and it is done again, row by row
            else:
                why = said(error)

    lacking = {each for each in called(connection, compute) if each.startswith("collation ")}
    return f"it needs the {min(lacking)}, which only the agent's program has" if lacking else why


def _is_lost(connection: sqlite3.Connection, column: str) -> str:
    """A condition in SQL: a column does not compute in a row."""
    return (
        is_uncomputed(sql_name(column)) if isinstance(connection, Reading) and connection.computes_each_alone else "0"
    )


def _free_name(column: str, known: Mapping[str, ValueKind], reserved: frozenset[str], taken: set[str]) -> str:
    name = column.lower() if column.lower() in known else column.replace("`", _FOR_BACKTICK)
    while name.lower() in reserved or name.lower() in taken or not name:
        name += "_"
    return name


def _nearest_kind(connection: sqlite3.Connection, table: str, column: str, declared: str) -> ValueKind:
    """The type for a column of the user's own: the declared one where it holds all that is there, else by what is."""
    found, beyond = _types_in(connection, table, column)
    kind = _declared_kind(declared)
    if kind is not None and found <= _HELD[kind] and not (kind is ValueKind.DOUBLE and beyond):
        return kind
    if found == {"integer"}:
        return ValueKind.INT64
    if found and found <= _HELD[ValueKind.DOUBLE]:
        return ValueKind.STRING if beyond else ValueKind.DOUBLE
    # Text holds no bytes that are none of its own, so a number among them is set aside rather than they.
    return ValueKind.BLOB if found == {"blob"} or (kind is ValueKind.BLOB and "blob" in found) else ValueKind.STRING


def _declared_kind(declared: str) -> ValueKind | None:
    """The type nearest to a declared one, by SQLite's affinity rules (sqlite.org/datatype3.html, 3.1).

    None for NUMERIC (DATETIME, BOOLEAN, …) and undeclared columns, which say nothing.
    """
    upper = declared.upper()
    if "INT" in upper:
        return ValueKind.INT64
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return ValueKind.STRING
    if "BLOB" in upper:
        return ValueKind.BLOB
    return ValueKind.DOUBLE if any(word in upper for word in ("REAL", "FLOA", "DOUB")) else None


#: SQLite's types whose values a column holds without loss.
_HELD: Mapping[ValueKind, frozenset[str]] = {
    ValueKind.INT64: frozenset({"integer"}),
    ValueKind.DOUBLE: frozenset({"integer", "real"}),
    ValueKind.STRING: frozenset({"integer", "real", "text"}),
    ValueKind.BLOB: frozenset({"blob", "text"}),
}
#: Integers up to this are exact as floats.
_EXACT = 2**53


def _types_in(connection: sqlite3.Connection, table: str, column: str) -> tuple[set[str], bool]:
    """SQLite's types of the values that are there, and whether an integer is not exact as a float."""
    name = sql_name(column)
    rows = connection.execute(
        f"SELECT typeof({name}), max(typeof({name}) = 'integer' AND {name} NOT BETWEEN {-_EXACT} AND {_EXACT}) "
        f"FROM {sql_name(table)} WHERE {name} IS NOT NULL AND NOT {_is_lost(connection, column)} GROUP BY 1"
    ).fetchall()
    return {kind for kind, _ in rows}, any(beyond for _, beyond in rows)
