"""Ids that are no integers: the memories arrive under numbers that stay, with their own ids and all that names them.

What is put in is the oracle: which memory has which id of its own, and which edge and turn names it.
"""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.memories import Memory, change, insert, make_memory, migrate, migrate_smoothly, read_target
from test_three_way import by_agent

import nimad
from nimad.compare.comparison import compare
from nimad.diagnostics.health import of_memory
from nimad.sync.follower import Follower

COUNT = 12
EDGE_COLUMNS = "source_id, target_id, relation TEXT, weight REAL"
TURN_COLUMNS = "turn_id TEXT, input_node_id, contemplation_node_id, output_node_id, timestamp INTEGER"


def uuid(number: int) -> str:
    return str(UUID(int=number * 0x1234_5678_9ABC_DEF0_1234_5678_9ABC))


#: How a table of memories declares its id, and what its ids are.
IDS: dict[str, tuple[str, list[Any]]] = {
    "texts": ("id TEXT PRIMARY KEY", [uuid(n) for n in range(1, COUNT + 1)]),
    "texts without rowids": ("id TEXT PRIMARY KEY", [uuid(n) for n in range(1, COUNT + 1)]),
    "bytes": ("id BLOB PRIMARY KEY", [UUID(uuid(n)).bytes for n in range(1, COUNT + 1)]),
    "texts in an integer column": ("id INTEGER", [f"m{n}" for n in range(1, COUNT + 1)]),
    "texts and integers": ("id", [n if n % 3 else f"m{n}" for n in range(1, COUNT + 1)]),
    "integers and fractions": ("id", [n if n % 3 else n + 0.5 for n in range(1, COUNT + 1)]),
    "texts of digits": ("id TEXT PRIMARY KEY", [str(n) for n in range(1, COUNT + 1)]),
    "texts of a descending key": ("id INTEGER PRIMARY KEY DESC", [f"m{n}" for n in range(1, COUNT + 1)]),
    "texts of a view": ("id TEXT PRIMARY KEY", [uuid(n) for n in range(1, COUNT + 1)]),
    "texts by another name": ("node_id TEXT PRIMARY KEY", [uuid(n) for n in range(1, COUNT + 1)]),
    "texts by another name without rowids": ("node_id TEXT PRIMARY KEY", [uuid(n) for n in range(1, COUNT + 1)]),
}


def made(path: Path, kind: str) -> Path:
    declared, ids = IDS[kind]
    rest = "WITHOUT ROWID" if kind.endswith("without rowids") else ""
    name = declared.split()[0]
    schema = [
        f"CREATE TABLE memory_nodes ({declared}, timestamp INTEGER, layer TEXT, text TEXT, turn_id TEXT) {rest}",
        f"CREATE TABLE memory_edges (id INTEGER PRIMARY KEY, {EDGE_COLUMNS})",
        f"CREATE TABLE memory_turns (id INTEGER PRIMARY KEY, {TURN_COLUMNS})",
    ]
    make_memory(path, own_schema=True, schema=schema)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        fill(connection, name, ids)
        if kind.endswith("of a view"):
            connection.execute("ALTER TABLE memory_nodes RENAME TO old_nodes")
            connection.execute("CREATE VIEW memory_nodes AS SELECT * FROM old_nodes")
    return path


def fill(connection: sqlite3.Connection, name: str, ids: Sequence[Any]) -> None:
    for number, own in enumerate(ids):
        columns = {"timestamp": number, "layer": "input", "text": f"memory {own!r}", "turn_id": f"t{number}"}
        insert(connection, "memory_nodes", [{name: own, **columns}])
    for a, b in pairwise(ids):
        insert(connection, "memory_edges", [{"source_id": a, "target_id": b, "relation": f"{a!r}>{b!r}"}])
        insert(connection, "memory_turns", [{"turn_id": repr(a), "input_node_id": a, "output_node_id": b}])


def assert_all_there(there: Memory, ids: Sequence[Any]) -> None:
    """Each memory once, and what names it tied to it."""
    by_text = {row["text"]: key for key, row in there.nodes.items()}
    numbers = {own: by_text[f"memory {own!r}"] for own in ids}
    assert len(there.nodes) == len(ids) == len(set(numbers.values()))
    assert all(numbers[own] == own for own in ids if isinstance(own, int))
    assert {row["relation"]: (row["source_id"], row["target_id"]) for row in there.edges.values()} == {
        f"{a!r}>{b!r}": (numbers[a], numbers[b]) for a, b in pairwise(ids)
    }
    names = {key: row["turn_id"] for key, row in there.turns.items()}
    for end, link in enumerate(("has_input", "has_output")):
        drawn = {names[key]: number for key, number in there.links[link]}
        assert drawn == {repr(pair[0]): numbers[pair[end]] for pair in pairwise(ids)}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["texts", "texts and integers", "texts of a view"])
def test_the_memories_arrive_and_what_names_them(tmp_path: Path, kind: str) -> None:
    run = migrate_smoothly(made(tmp_path / "graph.sqlite", kind))
    assert (run.result.exit_code, run.quarantine) == (0, [])
    assert_all_there(read_target(run.target), IDS[kind][1])


def test_a_row_that_comes_later_is_followed_whatever_its_number(tmp_path: Path) -> None:
    path = made(tmp_path / "graph.sqlite", "texts")
    migrate(path, reader_python=Path("none"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number in range(100, 110):
            insert(connection, "memory_nodes", [{"id": uuid(number), "timestamp": number, "text": f"late {number}"}])
            ends = {"source_id": uuid(number), "target_id": uuid(1)}
            insert(connection, "memory_edges", [{**ends, "relation": f"late {number}"}])
    settings = nimad.Settings(source=path, reader_python=Path("none"))
    Follower(settings, threading.Event(), lambda _: None).catch_up()
    there = read_target(path.with_name("graph.ladybug"))
    late = {row["text"]: key for key, row in there.nodes.items() if row["text"].startswith("late")}
    assert len(late) == 10
    drawn = {row["relation"]: row["source_id"] for row in there.edges.values() if row["relation"].startswith("late")}
    assert drawn == late


def test_the_first_text_id_that_comes_while_nimad_follows_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "graph.sqlite"
    change(path, "CREATE TABLE memory_nodes (id, timestamp INTEGER, text TEXT)")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        insert(connection, "memory_nodes", [{"id": number, "timestamp": number} for number in range(1, 20)])
    migrate(path, reader_python=Path("none"))
    follower = Follower(nimad.Settings(source=path, reader_python=Path("none")), threading.Event(), lambda _: None)
    follower.catch_up()
    change(path, "INSERT INTO memory_nodes VALUES (?, 99, 'late')", uuid(99))
    follower.catch_up()
    (late,) = [row for row in read_target(path.with_name("graph.ladybug")).nodes.values() if row["text"] == "late"]
    assert late["id_"] == uuid(99)


def test_what_comes_later_is_late_whatever_its_number(tmp_path: Path) -> None:
    path = made(tmp_path / "graph.sqlite", "texts")
    migrate(path, reader_python=Path("none"))
    settings = nimad.Settings(source=path, reader_python=Path("none"))
    for number in range(100, 110):
        change(path, "INSERT INTO memory_nodes (id, text) VALUES (?, ?)", uuid(number), f"late {number}")
    for level in ("full", "counts"):
        found = compare(settings, level)
        assert (found.total("late"), found.total("lacking"), found.exit_code) == (10, 0, 1)
    looked = of_memory(settings)
    assert looked.ok
    assert any(note.startswith("10 memories came late") for note in looked.notes)
    by_agent(settings.target, "MATCH (n:MemoryNode) WHERE n.timestamp = 3 DETACH DELETE n")
    nodes = compare(settings).tables["memory_nodes"]
    assert (nodes.late.count, nodes.lacking.count) == (10, 1), "and what was there and is gone is none of it"
    assert not of_memory(settings).ok
