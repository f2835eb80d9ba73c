"""Whether two files of the engine hold the same tables, rows and values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.source.schema import ValueKind
from nimad.target import catalog, row_counts
from nimad.target.catalog import Declared
from nimad.target.database import Database, open_database
from nimad.target.destination import cypher_name
from nimad.target.parameters import named
from nimad.worker.compare.compare_rows import count
from nimad.worker.compare.shared_schema import kind_of
from nimad.worker.engine_limits import limits_of
from nimad.worker.protocol import Job

#: Rows that are held against each other at a time.
_ROWS = 1_000


@dataclass(frozen=True)
class _Table:
    """A table as a file has it: kind and columns."""

    name: str
    kind: str
    columns: tuple[Declared, ...]

    @property
    def key(self) -> str:
        return next((column.name for column in self.columns if column.is_key), "")


def same(job: Job, module: ModuleType) -> dict[str, Any]:
    """Hold the job's target against the file `copy_to`; return what differs first, empty where nothing does."""
    limits = limits_of(job)
    with (
        open_database(module, job.target_path(), limits, read_only=True) as one,
        open_database(module, Path(job.copy_to), limits, read_only=True) as other,
    ):
        return {"differs": _differs(one, other), "free_twice": row_counts.frees_twice(other)}


def _differs(one: Database, other: Database) -> str:
    tables = _tables(one)
    if tables != _tables(other):
        return "its tables"
    for table in tables:
        for here, there in zip(_rows(one, table), _rows(other, table), strict=False):
            if here != there:
                return f"rows of {table.name}"
        if count(one, table.name) != count(other, table.name):
            return f"the number of rows of {table.name}"
    return ""


def _tables(database: Database) -> list[_Table]:
    kinds = sorted(database.tables().items())
    return [_Table(name, kind, tuple(catalog.columns(database, name))) for name, kind in kinds]


def _rows(database: Database, table: _Table) -> Iterator[str]:
    """Rows in order of their key, relationships in order of all that they say; each as one text."""
    wanted = [f"n.{cypher_name(column.name)}" for column in table.columns]
    kinds = [kind_of(column.type) for column in table.columns]
    if table.kind == "REL":
        for join in sorted(catalog.joins(database, table.name)):
            match = f"MATCH (a:{cypher_name(join.start)})-[n:{cypher_name(table.name)}]->(b:{cypher_name(join.end)})"
            keys = [f"a.{cypher_name(join.start_key)}", f"b.{cypher_name(join.end_key)}"]
            yield from sorted(map(repr, database.ask(f"{match} RETURN {', '.join([*keys, *wanted])}")))
        return
    last: Any = None
    key = f"n.{cypher_name(table.key)}"
    while True:
        after, given = named("last", last)
        above = "" if last is None else f"WHERE {key} > {after}"
        query = f"MATCH (n:{cypher_name(table.name)}) {above} RETURN {key} ORDER BY {key} LIMIT {_ROWS}"
        ids = [row[0] for row in database.ask(query, **({} if last is None else {"last": given}))]
        if not ids:
            return
        yield from _values(database, table, (ids[0], ids[-1]), (wanted, kinds))
        last = ids[-1]


def _values(
    database: Database, table: _Table, ends: tuple[Any, Any], columns: tuple[Sequence[str], Sequence[ValueKind | None]]
) -> Iterator[str]:
    """The rows with keys from the first to the last of `ends`."""
    wanted, kinds = columns
    key = f"n.{cypher_name(table.key)}"
    match = f"MATCH (n:{cypher_name(table.name)})"
    order = f"RETURN {', '.join(wanted)} ORDER BY {key}"
    if isinstance(ends[0], int) and None not in kinds:
        query = f"{match} WHERE {key} >= {ends[0]} AND {key} <= {ends[1]} {order}"
        for row in zip(*database.columns(query, [kind for kind in kinds if kind is not None]), strict=True):
            yield repr(row)
        return
    (first, a), (last, b) = named("a", ends[0]), named("b", ends[1])
    yield from map(repr, database.ask(f"{match} WHERE {key} >= {first} AND {key} <= {last} {order}", a=a, b=b))
