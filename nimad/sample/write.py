"""The writing of a sample into a file."""

import os
import shlex
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nimad.errors import CannotWriteError, UsageError
from nimad.sample.outline import plan_of
from nimad.sample.releases import create_schema, index_texts
from nimad.sample.request import DEFAULT_SAMPLE, Sample
from nimad.sample.table_rows import Row, edges_of, nodes_of, rows_of_3_1, turns_of


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """What was written: rows per table, and the size of the file in bytes."""

    nodes: int
    edges: int
    turns: int
    bytes: int


def write_sample(path: Path, sample: Sample = DEFAULT_SAMPLE) -> SampleCounts:
    """Write a NIMA memory to ``path``, which must not exist; it appears there only when it is complete."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already: name another file")
    part, folder = path.with_name(f".{path.name}.{os.getpid()}.part"), shlex.quote(str(path.parent))
    try:
        part.unlink(missing_ok=True)
        counts = _fill(part, sample)
        part.rename(path)
    except (OSError, sqlite3.Error) as error:
        if not path.parent.exists():
            raise CannotWriteError(f"there is no folder {path.parent}; make it with: mkdir -p {folder}") from error
        raise CannotWriteError(f"{path} cannot be written ({error}); see: df -h {folder}") from error
    finally:
        with suppress(OSError):  # the error above says more
            part.unlink()
    return counts


def _fill(part: Path, sample: Sample) -> SampleCounts:
    connection = sqlite3.connect(part, isolation_level=None)
    try:
        # A half-written sample is thrown away, so it needs no journal; WAL is only what readers will meet.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        create_schema(connection, sample.shape)
        plan = plan_of(sample)
        nodes = _insert(connection, "memory_nodes", nodes_of(sample, plan))
        edges = _insert(connection, "memory_edges", edges_of(sample, plan))
        turns = _insert(connection, "memory_turns", turns_of(sample, plan))
        if sample.shape == "3.1":
            for table, row in rows_of_3_1(sample, plan):
                connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        if sample.full_text_index:
            index_texts(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    return SampleCounts(nodes=nodes, edges=edges, turns=turns, bytes=part.stat().st_size)


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> int:
    """Insert those values of each row that ``table`` has a column for; return the number of rows."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES (:{', :'.join(columns)})"
    before = connection.total_changes
    connection.executemany(statement, rows)
    return connection.total_changes - before
