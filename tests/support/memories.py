"""What the tests share: small memories made row by row, real runs, and both sides read without nimad's code.

>>> source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)], edges=[edge(1, 1, 1)], turns=[turn(1, 1)])
>>> run = migrate(source)
>>> run.only(Analyzed).nodes, run.result.exit_code, run.quarantine
>>> target = read_target(run.target)
>>> target.nodes[1]["text"], target.edges[1]["source_id"], target.links["has_input"]
>>> assert_same(source, run.target)

``assert_same`` compares every row and column of SQLite with the target, bit for bit, by rules of its own.
"""

import json
import os
import shutil
import sqlite3
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ladybug

import nimad
from nimad.events.run import BatchFailed, Event
from nimad.sample import create_schema
from nimad.source.sqlite_file import SourceFile
from nimad.supervisor.worker_process import Clock

Row = Mapping[str, Any]
E = TypeVar("E", bound=Event)

#: The engine that writes where a test names none: `real_ladybug`, beside ours, is that of nima-core's guide.
WRITER = os.environ.get("NIMAD_WRITER", "auto")
#: Limits of the engine in the test process: small, explicit, the same everywhere.
ENGINE_LIMITS = {"buffer_pool_size": 128 * 1024**2, "max_db_size": 1 << 34, "max_num_threads": 2}

#: The source's tables by what they become.
TABLES = {"memory_nodes": "MemoryNode", "memory_edges": "relates_to", "memory_turns": "Turn"}
ENDS = {
    "memory_edges": ("source_id", "target_id"),
    "memory_turns": ("input_node_id", "contemplation_node_id", "output_node_id"),
}
LINKS = {"input_node_id": "has_input", "contemplation_node_id": "has_contemplation", "output_node_id": "has_output"}


#: What the agent's own tables have where nothing is given, and what it reads for a NULL in all of them but the last.
DEFAULTS = {
    "strength": 1.0,
    "decay_rate": 0.01,
    "last_accessed": 0,
    "is_ghost": False,
    "dismissal_count": 0,
    "recall_count": 0,
}

# Memories


def node(node_id: Any, /, **values: Any) -> dict[str, Any]:
    """A node with a text of its own; `values` add columns or replace them."""
    return {"id": node_id, "timestamp": 1_700_000_000_000, "layer": "input", "text": f"memory {node_id}", **values}


def edge(edge_id: Any, source_id: Any, target_id: Any, /, **values: Any) -> dict[str, Any]:
    ends = {"source_id": source_id, "target_id": target_id}
    return {"id": edge_id, **ends, "relation": "triggered", "weight": 0.5, **values}


def turn(
    turn_id: Any, question: Any = None, thought: Any = None, answer: Any = None, /, **values: Any
) -> dict[str, Any]:
    ends = {"input_node_id": question, "contemplation_node_id": thought, "output_node_id": answer}
    return {"id": turn_id, "turn_id": f"turn_{turn_id}", **ends, "timestamp": 1_700_000_000_000, **values}


def vector(*floats: float) -> bytes:
    """An embedding as NIMA stores it."""
    return struct.pack(f"<{len(floats)}f", *floats)


def make_memory(
    path: Path,
    shape: str = "3.1",
    *,
    nodes: Iterable[Row] = (),
    edges: Iterable[Row] = (),
    turns: Iterable[Row] = (),
    schema: Sequence[str] = (),
    own_schema: bool = False,
    journal: str = "WAL",
) -> Path:
    """Write a memory of a released shape and close it cleanly.

    `schema` is SQL run before the rows go in (`ALTER TABLE …`); with `own_schema` it stands alone, without the
    released tables. A row is inserted with just the columns it names.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("BEGIN")
        if not own_schema:
            create_schema(connection, shape)
        for statement in schema:
            connection.execute(statement)
        for table, rows in {"memory_nodes": nodes, "memory_edges": edges, "memory_turns": turns}.items():
            insert(connection, table, rows)
        connection.execute("COMMIT")
    return path


def copied(made: Path, folder: Path) -> Path:
    """The files of a folder once more, as if they had been made there, for a test that changes them."""
    for file in made.iterdir():
        shutil.copy2(file, folder, follow_symlinks=False)
    for state in folder.glob("*.state.json"):
        told = json.loads(state.read_text())
        told["source"] = SourceFile(folder / Path(told["source"]["path"]).name).identity().to_json()
        state.write_text(json.dumps(told, indent=2, ensure_ascii=False))
    return folder


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    for row in rows:
        names = ", ".join(_sql(name) for name in row)
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))


def change(path: Path, statement: str, *values: Any) -> None:
    """Run one SQL statement on a memory, as the agent would between two runs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement, values)


def _sql(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# Runs


@dataclass
class Run:
    """A run that ended: its result and everything it said."""

    result: nimad.Result
    events: list[Event]

    @property
    def target(self) -> Path:
        return Path(self.result.target)

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        return read_quarantine(self.target)

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def only(self, kind: type[E]) -> E:
        (event,) = self.all(kind)
        return event


class Hurried(Clock):
    """A clock that waits for nothing, and remembers how long it would have waited."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waited.append(seconds)
        return stop.is_set()


def migrate(source: Path, *, events: list[Event] | None = None, clock: Clock | None = None, **settings: Any) -> Run:
    """Call `nimad.migrate`; settings as in `nimad.Settings`. Pass a list as `events` to have them after an error."""
    heard: list[Event] = [] if events is None else events
    return Run(nimad.migrate(_asked(source, settings), heard.append, clock=clock), heard)


def migrate_smoothly(source: Path, **settings: Any) -> Run:
    """Migrate with no failed batch: the first one ends the test at once, where `migrate` would try again for 21 s."""
    heard: list[Event] = []

    def listen(event: Event) -> None:
        assert not isinstance(event, BatchFailed), event.message
        heard.append(event)

    return Run(nimad.migrate(_asked(source, settings), listen), heard)


def _asked(source: Path, settings: Mapping[str, Any]) -> nimad.Settings:
    return nimad.Settings(source=source, **{"engine": WRITER, **settings})


def read_quarantine(target: Path) -> list[dict[str, Any]]:
    """The lines of the quarantine file beside `target`; empty when there is no such file."""
    path = quarantine_file(target)
    if not path.exists():
        return []
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def quarantine_file(target: Path) -> Path:
    return target.with_name(target.name + ".quarantine.jsonl")


# Both sides


@dataclass
class Memory:
    """All rows by id, and links by kind as (turn, node). Edges hold their ends as `source_id` and `target_id`.

    Embeddings are bytes, as NIMA stores them. `types`, of a target only: table → column → type.
    """

    nodes: dict[int, dict[str, Any]]
    edges: dict[int, dict[str, Any]] = field(default_factory=dict)
    turns: dict[int, dict[str, Any]] = field(default_factory=dict)
    links: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    types: dict[str, dict[str, str]] = field(default_factory=dict)


def read_target(path: Path) -> Memory:
    """Everything the target holds, read with the engine in this process; fails when a key is there twice."""
    with (
        closing(ladybug.Database(str(path), read_only=True, **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        types = {table: _types(connection, table) for table in (*TABLES.values(), *LINKS.values())}
        ends = {"source_id": "a.id", "target_id": "b.id"}
        return Memory(
            nodes=_rows(connection, "(n:MemoryNode)", "n", types["MemoryNode"], "id"),
            edges=_rows(
                connection, "(a:MemoryNode)-[n:relates_to]->(b:MemoryNode)", "n", types["relates_to"], "edge_id", ends
            ),
            turns=_rows(connection, "(n:Turn)", "n", types["Turn"], "id"),
            links={
                kind: sorted(
                    map(tuple, _ask(connection, f"MATCH (t:Turn)-[:{kind}]->(m:MemoryNode) RETURN t.id, m.id"))
                )
                for kind in LINKS.values()
            },
            types=types,
        )


def _ask(connection: Any, cypher: str) -> list[list[Any]]:
    with closing(connection.execute(cypher)) as result:
        rows: list[list[Any]] = result.get_all()
    return rows


def _types(connection: Any, table: str) -> dict[str, str]:
    return {name: kind for _, name, kind, *_ in _ask(connection, f"CALL table_info('{table}') RETURN *")}


def _rows(
    connection: Any, pattern: str, variable: str, types: Row, key: str, ends: Mapping[str, str] | None = None
) -> dict[int, dict[str, Any]]:
    plain = [name for name, kind in types.items() if not kind.startswith("FLOAT[")]
    wanted = {name: f"{variable}.{_cypher(name)}" for name in plain} | dict(ends or {})
    found: dict[int, dict[str, Any]] = {}
    for values in _ask(connection, f"MATCH {pattern} RETURN {', '.join(wanted.values())}"):
        row = dict(zip(wanted, values, strict=True))
        assert row[key] not in found, f"{pattern} has {key} {row[key]} twice"
        found[row[key]] = row
    for name in sorted(set(types) - set(plain)):
        bits = _vector_bytes(connection, pattern, f"{variable}.{key}", f"{variable}.{_cypher(name)}")
        for row_key, row in found.items():
            row[name] = bits.get(row_key)
    return found


def _vector_bytes(connection: Any, pattern: str, key: str, column: str) -> dict[int, bytes]:
    """Embeddings bit for bit: Python's own floats would not keep the bits of a NaN."""
    with closing(connection.execute(f"MATCH {pattern} WHERE {column} IS NOT NULL RETURN {key}, {column}")) as result:
        batch = result.get_as_arrow().combine_chunks()
    found: dict[int, bytes] = {}
    for keys, vectors in zip(batch.column(0).chunks, batch.column(1).chunks, strict=True):
        width = vectors.type.list_size
        bits = vectors.flatten().view("uint32").to_pylist()
        for position, row_key in enumerate(keys.to_pylist()):
            found[row_key] = struct.pack(f"<{width}I", *bits[position * width : (position + 1) * width])
    return found


def _cypher(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def read_source(path: Path) -> Memory:
    """Everything SQLite holds in the three tables, by id (or rowid, in a table without)."""
    with closing(sqlite3.connect(path)) as connection:
        tables = {table: _source_rows(connection, table) for table in TABLES}
    turns = tables["memory_turns"]
    links = {
        kind: sorted((key, row[end]) for key, row in turns.items() if row.get(end) is not None)
        for end, kind in LINKS.items()
    }
    return Memory(tables["memory_nodes"], tables["memory_edges"], turns, links)


def _source_rows(connection: sqlite3.Connection, table: str) -> dict[int, dict[str, Any]]:
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    if not names:
        return {}
    key = "id" if "id" in names else "rowid"
    rows = connection.execute(f"SELECT {key}, {', '.join(map(_sql, names))} FROM {table}")
    return {row_key: dict(zip(names, values, strict=True)) for row_key, *values in rows}


def assert_same(
    source: Path,
    target: Path,
    *,
    renamed: Mapping[str, str] | None = None,
    nodes_only: bool = False,
    there: Memory | None = None,
) -> Memory:
    """Fail unless the target holds every row and column of the source, bit for bit, and no row more.

    `renamed`: source column → name in the target. Columns that the source lacks have to be empty, or `DEFAULTS`.
    `there`: what another engine than that of the tests has read. Returns the target's rows for further questions.
    """
    here, there = read_source(source), there or read_target(target)
    if nodes_only:
        here = Memory(here.nodes, links={kind: [] for kind in LINKS.values()})
    new_names = dict(renamed or {})
    _assert_rows("memory_nodes", here.nodes, there.nodes, {"id": "id", **new_names})
    _assert_rows("memory_edges", here.edges, there.edges, {"id": "edge_id", **new_names})
    _assert_rows("memory_turns", here.turns, there.turns, {"id": "id", **new_names})
    assert there.links == here.links
    return there


def _assert_rows(table: str, here: Mapping[int, Row], there: Mapping[int, Row], new_names: Mapping[str, str]) -> None:
    assert sorted(there) == sorted(here), f"{table}: other ids"
    key = "edge_id" if table == "memory_edges" else "id"
    dropped = ENDS["memory_turns"] if table == "memory_turns" else ()
    for row_key, row in here.items():
        expected = {new_names.get(name, name): value for name, value in row.items() if name not in dropped}
        expected[key] = row_key
        for name, value in expected.items():
            wanted = bool(value) if name == "is_ghost" and value is not None else value
            if table == "memory_nodes" and wanted is None and name != "recall_count":
                wanted = DEFAULTS.get(name)
            got = there[row_key][name]
            assert same_value(got, wanted), f"{table} {row_key}, {name}: {_clip(got)} where SQLite has {_clip(wanted)}"
        for name in set(there[row_key]) - set(expected):
            default = DEFAULTS.get(name) if table == "memory_nodes" else None
            assert same_value(there[row_key][name], default), f"{table} {row_key}, {name}"


def same_value(one: Any, other: Any) -> bool:
    """Of one type and equal; floats bit for bit, so that 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    return bool(one == other)


def _clip(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
