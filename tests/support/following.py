"""A published target and its follower, and an agent that writes to both sides."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import ladybug
import pytest

import nimad
from nimad.events.run import Event
from nimad.state.target_state import stamp_of
from nimad.sync.follower import Follower
from nimad.sync.result import SyncResult
from support.memories import (
    ENGINE_LIMITS,
    edge,
    insert,
    make_memory,
    migrate,
    node,
    turn,
    vector,
)
from support.torture import beside, state_of, target_of

#: Memories of the source at first, three a turn.
NODES = 60
LAYERS = ("input", "contemplation", "output")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a memory and its target."""
    source = make_memory(
        tmp_path_factory.mktemp("made") / "graph.sqlite",
        nodes=[
            node(
                key,
                layer=LAYERS[(key - 1) % 3],
                turn_id=f"turn_{1 + (key - 1) // 3}",
                embedding=vector(key, 1, 2, 3),
                last_accessed=1_000 + key,
                strength=0.5,
            )
            for key in range(1, NODES + 1)
        ],
        edges=[edge(key, key, key + 1) for key in range(1, NODES, 3)],
        turns=[turn(1 + key // 3, key, key + 1, key + 2) for key in range(1, NODES, 3)],
    )
    migrate(source, reader_python=Path("none"))
    return source.parent


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    """The memory and its target, as if they had been made here."""
    for path in made.iterdir():
        shutil.copy(path, tmp_path / path.name, follow_symlinks=False)
    copy, target = tmp_path / "graph.sqlite", tmp_path / "graph.ladybug"
    state = state_of(target)
    state["source"] = {"path": str(copy), "inode": copy.stat().st_ino}
    state["file"] = stamp_of(target)
    beside(target, ".state.json").write_text(json.dumps(state))
    return copy


class Following:
    """A follower, and what it said."""

    def __init__(self, source: Path, **settings: Any) -> None:
        self.events: list[Event] = []
        self.source, self.target = source, target_of(source)
        asked = nimad.Settings(source=source, reader_python=Path("none"), **settings)
        self._follower = Follower(asked, threading.Event(), self.events.append)

    def __call__(self, **options: bool) -> SyncResult:
        return self._follower.catch_up(**options)

    @property
    def due_s(self) -> float | None:
        return self._follower.compaction_due_s

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def follow(source: Path) -> Following:
    return Following(source)


def new_turn(source: Path, number: int, *, first: int | None = None, **values: Any) -> list[int]:
    """The agent says something: three nodes, two edges and a turn, in one transaction."""
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        last = connection.execute("SELECT max(id) FROM memory_nodes").fetchone()[0]
        start = last + 1 if first is None else first
        ids = [start, start + 1, start + 2]
        text = f"a long text of turn {number} " * 20
        insert(
            connection,
            "memory_nodes",
            [
                node(key, layer=layer, turn_id=f"turn_{number}", text=text + layer, embedding=vector(key, 4, 5, 6))
                | values
                for key, layer in zip(ids, LAYERS, strict=True)
            ],
        )
        insert(
            connection,
            "memory_edges",
            [{k: v for k, v in edge(0, a, b).items() if k != "id"} for a, b in pairwise(ids)],
        )
        insert(connection, "memory_turns", [turn(number, *ids)])
        connection.execute("COMMIT")
    return ids


@contextmanager
def agent(target: Path) -> Iterator[Any]:
    """The agent's own program, which has the target open for writing."""
    with (
        closing(ladybug.Database(str(target), **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        yield connection


def written_by_agent(target: Path, number: int, ids: Sequence[int], *, cut: int = 100) -> None:
    """What nima-core writes of a turn: texts cut, edges without a key, under ids of its own."""
    text = f"a long text of turn {number} " * 20
    with agent(target) as connection:
        for key, layer in zip(ids, LAYERS, strict=True):
            connection.execute(
                "CREATE (:MemoryNode {id: $id, layer: $layer, turn_id: $turn, text: $text, timestamp: 1700000000000})",
                {"id": key, "layer": layer, "turn": f"turn_{number}", "text": (text + layer)[:cut]},
            )
        for a, b in pairwise(ids):
            connection.execute(
                f"MATCH (a:MemoryNode), (b:MemoryNode) WHERE a.id = {a} AND b.id = {b} "
                "CREATE (a)-[:relates_to {relation: 'triggered', weight: 1.0}]->(b)"
            )
        connection.execute(f"CREATE (:Turn {{id: {ids[0]}, turn_id: 'turn_{number}', timestamp: 1700000000000}})")
        for kind, key in zip(("input", "contemplation", "output"), ids, strict=True):
            connection.execute(
                f"MATCH (t:Turn), (n:MemoryNode) WHERE t.id = {ids[0]} AND n.id = {key} CREATE (t)-[:has_{kind}]->(n)"
            )


def ask(target: Path, cypher: str) -> list[list[Any]]:
    with (
        closing(ladybug.Database(str(target), read_only=True, **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        rows: list[list[Any]] = connection.execute(cypher).get_all()
    return rows
