"""Compaction: the same rows in a new file without the holes of earlier checkpoints."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nimad.host.disk import discard, export_folder
from nimad.target import catalog, row_counts
from nimad.target.catalog import Joined, as_text
from nimad.target.database import Database, EngineLimits, open_database
from nimad.target.destination import Destination, cypher_name
from nimad.target.row_counts import Count


@dataclass(frozen=True)
class _Table:
    """One table as the file has it, whoever made it. `joins`: of a relationship, the tables that it may join."""

    name: str
    statement: str
    columns: Sequence[str]
    joins: Sequence[Joined] = ()

    def pieces(self) -> Iterator[tuple[str, str, str]]:
        """What COPY wants: a query for the rows, where they go, and options; one for nodes and for each pair joined."""
        wanted, into = [f"n.{cypher_name(name)}" for name in self.columns], str(Destination(self.name, self.columns))
        if not self.joins:
            yield f"MATCH (n:{cypher_name(self.name)}) RETURN {', '.join(wanted)}", into, ""
        for join in self.joins:
            match = f"MATCH (a:{cypher_name(join.start)})-[n:{cypher_name(self.name)}]->(b:{cypher_name(join.end)})"
            keys = [f"a.{cypher_name(join.start_key)}", f"b.{cypher_name(join.end_key)}"]
            ends = f"(from={as_text(join.start)}, to={as_text(join.end)})"
            yield f"{match} RETURN {', '.join([*keys, *wanted])}", into, ends


def compact(engine: ModuleType, path: Path, copy_to: Path, limits: EngineLimits) -> Mapping[str, Count]:
    """Copy `path` into the new file `copy_to` by way of Parquet files beside it; return what was copied.

    `path` stays as it is. What an earlier attempt left under the names used here is thrown away. Every table is made
    by a statement of our own, also those that the agent made: EXPORT DATABASE loses the defaults of columns up to
    0.15.3, and 0.22.0 refuses a relationship that joins more than two tables.
    """
    folder = export_folder(copy_to)
    discard(copy_to)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    os.chdir(folder)  # a worker's own: the engine is given names without the folders above, which may hold quotes
    try:
        with open_database(engine, path, limits, read_only=True) as database:
            counts = row_counts.count(database)
            tables = list(_tables(database))
            database.run("CALL threads=1")  # several would write the rows in any order
            pieces = [piece for table in tables for piece in table.pieces()]
            for number, (query, *_) in enumerate(pieces):
                database.run(f"COPY ({query}) TO '{number}.parquet'")
        with open_database(engine, copy_to, limits) as database:
            for table in tables:
                database.run(table.statement)
            for number, (_, into, options) in enumerate(pieces):
                database.run(f"COPY {into} FROM '{number}.parquet' {options}")
            database.checkpoint()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def _tables(database: Database) -> Iterator[_Table]:
    """Every table of a file, nodes first."""
    kinds = database.tables()
    for name in sorted(kinds, key=lambda name: kinds[name] == "REL"):
        declared = catalog.columns(database, name)
        parts = [column.declaration for column in declared]
        columns = [column.name for column in declared]
        if kinds[name] == "REL":
            joins = catalog.joins(database, name)
            ends = [f"FROM {cypher_name(join.start)} TO {cypher_name(join.end)}" for join in joins]
            yield _Table(name, f"CREATE REL TABLE {cypher_name(name)}({', '.join([*ends, *parts])})", columns, joins)
        else:
            (key,) = (cypher_name(column.name) for column in declared if column.is_key)
            statement = f"CREATE NODE TABLE {cypher_name(name)}({', '.join([*parts, f'PRIMARY KEY({key})'])})"
            yield _Table(name, statement, columns)
