"""Late arrivals with every release of the engine that an agent may have: each writes what it can read itself."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.environments import ENGINES, Engine, MakeEnvironment, answering, read_with
from support.memories import assert_same, change, edge, insert, make_memory, migrate, node, turn, vector
from support.torture import beside, target_of

import nimad
from nimad.sync.follower import Follower
from nimad.sync.result import SyncResult

#: The first release whose log may be left beside the target.
LOG_SINCE = (0, 22)
#: Characters of a text that nima-core writes to the target.
CUT_AT = 2_000
NODES = 30


@pytest.mark.sampled
@pytest.mark.parametrize("requirement", ENGINES)
def test_late_arrivals_by_the_agents_own_engine(
    tmp_path: Path, make_environment: MakeEnvironment, requirement: str
) -> None:
    engine = make_environment(requirement).engine(ENGINES[requirement])
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[
            node(key, turn_id=f"t{key}", text='{"a": 0.5}', last_accessed=key, embedding=vector(key, 2))
            for key in range(1, NODES + 1)
        ],
        edges=[edge(1, 1, 2)],
        turns=[turn(1, 1, 2, 3)],
    )
    asked = nimad.Settings(source=source, reader_python=engine.python, engine_python=engine.python)
    migrate(source, reader_python=engine.python, engine_python=engine.python)
    follower = Follower(asked, threading.Event(), lambda _: None)
    _new_turn(source, 100)
    assert follower.catch_up() == SyncResult(added=3, edges=2, turns=1, nodes=NODES + 3)
    release = tuple(int(part) for part in requirement.partition("==")[2].split(".")[:2])
    assert beside(target_of(source), ".wal").exists() == (release >= LOG_SINCE)
    changed = "UPDATE memory_nodes SET text = '[1, 2]', embedding = ?, last_accessed = 900 WHERE id = 5"
    change(source, changed, vector(7, 8))
    assert follower.catch_up().changed == 1
    change(source, "DELETE FROM memory_nodes WHERE id = 6")
    assert follower.catch_up(thorough=True).removed == 1
    _written_by_agent(engine, target_of(source))
    _new_turn(source, 200)
    assert follower.catch_up(last=True).nodes == NODES + 5
    assert_same(source, target_of(source), there=read_with(engine, target_of(source)))


def _new_turn(source: Path, first: int) -> None:
    ids = [first, first + 1, first + 2]
    layers = zip(ids, ("input", "contemplation", "output"), strict=True)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        rows = [
            node(key, layer=layer, turn_id=f"t{first}", text="[1] " * 900, embedding=vector(1, 2))
            for key, layer in layers
        ]
        insert(connection, "memory_nodes", rows)
        insert(connection, "memory_edges", [edge(first, first, first + 1), edge(first + 1, first + 1, first + 2)])
        insert(connection, "memory_turns", [turn(first, *ids)])
        connection.execute("COMMIT")


def _written_by_agent(engine: Engine, target: Path) -> None:
    """Two memories of the turn that is about to arrive, cut, with the ids that SQLite gives them, and their edge."""
    cut = ("[1] " * 900)[:CUT_AT]
    with answering(engine, target, read_only=False) as (ask, _):
        for key, layer in ((200, "input"), (201, "contemplation")):
            ask(f"CREATE (:MemoryNode {{id: {key}, layer: '{layer}', turn_id: 't200', text: '{cut}'}})")
        ask(
            "MATCH (a:MemoryNode), (b:MemoryNode) WHERE a.id = 200 AND b.id = 201 "
            "CREATE (a)-[:relates_to {relation: 'triggered'}]->(b)"
        )


@pytest.mark.sampled
@pytest.mark.parametrize("requirement", ENGINES)
def test_a_published_file_lists_no_free_page_twice(
    tmp_path: Path, make_environment: MakeEnvironment, requirement: str
) -> None:
    """0.15.3 does with some numbers of tables; then its third write destroys the file."""
    engine = make_environment(requirement).engine(ENGINES[requirement])
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(key, turn_id=f"t{key}") for key in range(1, NODES + 1)],
        edges=[edge(1, 1, 2)],
        turns=[turn(1, 1, 2, 3)],
    )
    migrate(source, reader_python=engine.python, engine_python=engine.python)
    with answering(engine, target_of(source), read_only=True) as (ask, _):
        free = [page for first, pages in ask("CALL fsm_info() RETURN *") for page in range(first, first + pages)]
    assert len(free) == len(set(free))
    for number in range(4):
        with answering(engine, target_of(source), read_only=False) as (ask, _):
            ask(f"CREATE (:Turn {{id: {500 + number}, turn_id: 'own'}})")
    with answering(engine, target_of(source), read_only=True) as (ask, _):
        assert ask("MATCH (n:Turn) WHERE n.turn_id = 'own' RETURN count(*)") == [[4]]
        assert ask("MATCH (n:MemoryNode) RETURN count(n.text)") == [[NODES]]


def test_a_file_whose_free_pages_are_listed_twice_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    migrate(source, reader_python=Path("none"))
    monkeypatch.setattr("nimad.sync.round.SyncRound._do", lambda *_: {"refused": "free pages", "opened": False})
    change(source, "INSERT INTO memory_nodes (id, text) VALUES (7, 'late')")
    follower = Follower(nimad.Settings(source=source, reader_python=Path("none")), threading.Event(), lambda _: None)
    assert "lists free pages twice, as real_ladybug 0.15.3 leaves them" in follower.catch_up().left_alone
