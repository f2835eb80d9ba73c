"""The agent of `tests/support/agent` does to a target what nima-core does, with each engine that it may have."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.agent.driver import Agent, DiedError
from support.agent.steps import (
    BOTH,
    LADYBUG,
    LAYERS,
    SQLITE,
    Backfill,
    Capture,
    Dream,
    Edit,
    Forget,
    Key,
    Merge,
    Prune,
    Recall,
    Search,
    Store,
    Visible,
)
from support.environments import OLDEST, OURS, Engine, MakeEnvironment, opened
from support.memories import edge, make_memory, migrate, node, turn, vector
from support.torture import beside, target_of

AT = 1_790_000_000_000
#: Statements of a stored turn: in SQLite with its transaction's ends, and in LadybugDB with the look for an id.
IN_SQLITE, IN_LADYBUG = 9, 8
TURNS = 4


@pytest.fixture(scope="module", params=["real_ladybug", "ladybug"])
def engine(request: pytest.FixtureRequest, make_environment: MakeEnvironment) -> Engine:
    if request.param == OURS.module:
        return OURS
    return make_environment(OLDEST, lend=["pyarrow"]).engine("real_ladybug")


@pytest.fixture(scope="module")
def made(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of four turns and its target, which the engine can open."""
    nodes = [
        node(3 * number + place, layer=layer, turn_id=f"turn_{number}", embedding=vector(number, place), strength=0.5)
        for number in range(TURNS)
        for place, layer in enumerate(LAYERS, 1)
    ]
    firsts = range(1, 3 * TURNS, 3)
    source = make_memory(
        tmp_path_factory.mktemp("made") / "graph.sqlite",
        nodes=nodes,
        edges=[edge(first, first, first + 1) for first in firsts],
        turns=[turn(first, first, first + 1, first + 2, turn_id=f"turn_{first // 3}") for first in firsts],
    )
    migrate(source, reader_python=engine.python, engine_python=engine.python)
    return source.parent


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    for name in ("graph.sqlite", "graph.ladybug"):
        shutil.copy(made / name, tmp_path)
    return tmp_path / "graph.sqlite"


@pytest.fixture
def agent(engine: Engine, source: Path) -> Iterator[Agent]:
    with Agent(source, target_of(source), engine) as agent:
        yield agent


class Sides:
    """Both files as plain rows, without nimad."""

    def __init__(self, engine: Engine, source: Path) -> None:
        self._engine, self._source = engine, source

    def sqlite(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self._source)) as connection:
            return connection.execute(query).fetchall()

    def ladybug(self, cypher: str) -> list[Any]:
        with opened(self._engine, target_of(self._source)) as ask:
            return ask(cypher)


@pytest.fixture
def sides(engine: Engine, source: Path) -> Sides:
    return Sides(engine, source)


def keys(turn_id: str) -> tuple[Key, ...]:
    return tuple((turn_id, layer) for layer in LAYERS)


# Storing


@pytest.mark.sampled
def test_a_turn_is_stored_on_both_sides_under_ids_of_their_own(agent: Agent, sides: Sides) -> None:
    agent.must(Store("alone", AT, side=LADYBUG))
    agent.must(Store("turn_new", AT + 1, texts=("short", "t" * 2_001, "a" * 2_000), summaries=("s" * 501, "", "")))
    here = sides.sqlite("SELECT id, length(text), length(summary) FROM memory_nodes WHERE turn_id = 'turn_new'")
    there = sides.ladybug(
        "MATCH (n:MemoryNode {turn_id: 'turn_new'}) RETURN n.id, size(n.text), size(n.summary) ORDER BY n.id"
    )
    assert here == [(13, 5, 501), (14, 2_001, 0), (15, 2_000, 0)]
    assert there == [[16, 5, 500], [17, 2_000, 0], [18, 2_000, 0]]
    assert sides.ladybug("MATCH (t:Turn {turn_id: 'turn_new'}) RETURN t.id") == [[AT + 1]]
    assert sides.sqlite("SELECT id FROM memory_turns WHERE turn_id = 'turn_new'") == [(11,)]
    found = sides.ladybug(
        "MATCH (a:MemoryNode {id: 16})-[r:relates_to]->(b:MemoryNode) RETURN b.id, r.relation, r.weight"
    )
    assert found == [[17, "triggered", 1.0]]
    assert sides.ladybug("MATCH (:Turn {turn_id: 'turn_new'})-[l]->(:MemoryNode) RETURN count(l)") == [[0]]
    assert {("turn_new", layer) for layer in LAYERS} <= {tuple(name) for name in agent.must(Visible())}


def test_the_second_process_may_fail_for_itself(agent: Agent, sides: Sides) -> None:
    agent.must(Store("turn_new", AT, side=SQLITE))
    assert sides.sqlite("SELECT count(*) FROM memory_nodes") == [(15,)]
    assert sides.ladybug("MATCH (n:MemoryNode) RETURN count(n)") == [[12]]


@pytest.mark.sampled
@pytest.mark.parametrize("die_after", [0, 5, IN_SQLITE - 1])
def test_a_kill_in_sqlite_stores_nothing(agent: Agent, sides: Sides, die_after: int) -> None:
    with pytest.raises(DiedError):
        agent.do(Store("turn_new", AT), die_after=die_after)
    assert sides.sqlite("SELECT count(*) FROM memory_nodes") == [(12,)]
    assert sides.ladybug("MATCH (n:MemoryNode) RETURN count(n)") == [[12]]


@pytest.mark.sampled
@pytest.mark.parametrize(("further", "nodes", "edges"), [(0, 0, 0), (3, 2, 0), (5, 3, 1), (IN_LADYBUG - 1, 3, 3)])
def test_a_kill_in_ladybugdb_leaves_a_part(agent: Agent, sides: Sides, further: int, nodes: int, edges: int) -> None:
    with pytest.raises(DiedError):
        agent.do(Store("turn_new", AT), die_after=IN_SQLITE + further)
    assert sides.sqlite("SELECT count(*) FROM memory_nodes") == [(15,)]
    agent.must(Visible())  # which opens the file for writing, and so takes in the log of the one that died
    new = "MATCH (n:MemoryNode {turn_id: 'turn_new'})"
    assert sides.ladybug(f"{new} RETURN count(n)") == [[nodes]]
    assert sides.ladybug(f"{new}-[r:relates_to]->(:MemoryNode) RETURN count(r)") == [[edges]]
    assert sides.ladybug("MATCH (t:Turn {turn_id: 'turn_new'}) RETURN count(t)") == [[0]]


def test_a_captured_result_has_no_turn(agent: Agent, sides: Sides) -> None:
    assert [row["id"] for row in agent.must(Capture("a result", AT))] == [13]
    there = "MATCH (n:MemoryNode {id: 13}) RETURN n.turn_id, n.who, n.is_ghost, n.source_agent"
    assert sides.ladybug(there) == [[None, "agent:helper", False, "helper"]]
    assert len(sides.ladybug("MATCH (n:MemoryNode {id: 13})-[r:relates_to]->(m:MemoryNode) RETURN m.id")) == 3
    assert ["a result", "output"] in agent.must(Visible())


# What is remembered, and what is not


@pytest.mark.parametrize("notes_access", [True, False])
def test_a_recall_reinforces(agent: Agent, sides: Sides, notes_access: bool) -> None:
    agent.must(Recall((("turn_1", "input"),), AT, notes_access=notes_access))
    figures = "MATCH (n:MemoryNode {id: 4}) RETURN n.strength, n.decay_rate, n.last_accessed"
    assert sides.ladybug(figures) == [[pytest.approx(0.6), pytest.approx(0.009), AT if notes_access else 0]]
    assert sides.sqlite("SELECT strength, last_accessed FROM memory_nodes WHERE id = 4") == [(0.5, None)]
    agent.must(Recall((("turn_1", "input"),), AT + 1, side=SQLITE))
    here = sides.sqlite("SELECT strength, decay_rate, last_accessed FROM memory_nodes WHERE id = 4")
    assert here == [(pytest.approx(0.6), pytest.approx(0.009), AT + 1)]


def test_the_readers_do_not_see_what_was_pruned(agent: Agent, sides: Sides) -> None:
    before = agent.must(Visible())
    assert len(before) == 3 * TURNS
    for _ in range(2):
        agent.must(Prune((("turn_2", "output"),), side=BOTH))
    assert sides.ladybug("MATCH (n:MemoryNode {id: 9}) RETURN n.is_ghost, n.dismissal_count") == [[True, 1]]
    assert sides.sqlite("SELECT is_ghost, dismissal_count FROM memory_nodes WHERE id = 9") == [(1, 1)]
    assert [each for each in before if each not in agent.must(Visible())] == [["turn_2", "output"]]


def test_a_cluster_is_merged_into_its_survivor(agent: Agent, sides: Sides) -> None:
    agent.must(Merge(("turn_0", "input"), (("turn_1", "input"), ("turn_2", "input")), AT))
    there = sides.ladybug("MATCH (n:MemoryNode) WHERE n.id IN [1, 4, 7] RETURN n.text, n.strength, n.is_ghost")
    assert there == [["memory 1", pytest.approx(0.7), False], *[["[Ghosted: Merged into 1]", 0.0, True]] * 2]
    assert agent.must(Search("memory 1"))[0] == "memory 1"
    assert agent.must(Search("memory 4")) == []


def test_a_dream_finds_its_tables_and_is_written_once(agent: Agent, sides: Sides) -> None:
    assert agent.must(Dream("night")) == 0, "none of the three is lost for want of a table"
    agent.must(Dream("night"))
    assert sides.ladybug("MATCH (n:InsightNode) RETURN n.id") == [["insight_night"]]
    assert sides.ladybug("MATCH (n:DreamNode) RETURN n.id") == [["dream_night"]]
    assert sides.ladybug("MATCH (n:PatternNode) RETURN n.id, n.occurrences") == [["pattern_night", 2]]
    assert sides.sqlite("SELECT id FROM nima_insights") == [("insight_night",)]


def test_a_backfill_adds_the_column_that_is_missing(agent: Agent, sides: Sides) -> None:
    agent.must(Store("turn_new", AT))
    sides.sqlite("ALTER TABLE memory_nodes DROP COLUMN embedding")
    assert agent.must(Backfill(2, side=SQLITE)) == 15
    assert agent.must(Backfill(2, side=LADYBUG)) == 3
    assert sides.sqlite("SELECT count(*) FROM memory_nodes WHERE length(embedding) = 8") == [(15,)]
    assert sides.ladybug("MATCH (n:MemoryNode) WHERE n.embedding IS NULL RETURN count(n)") == [[0]]


def test_a_script_of_the_owner_changes_sqlite(agent: Agent, sides: Sides) -> None:
    agent.must(Edit(("turn_0", "input"), "edited"))
    agent.must(Forget(keys("turn_3")))
    assert sides.sqlite("SELECT text FROM memory_nodes WHERE id = 1") == [("edited",)]
    counts = "SELECT (SELECT count(*) FROM memory_nodes), (SELECT count(*) FROM memory_turns)"
    assert sides.sqlite(counts) == [(9, TURNS - 1)]


# Several processes


def test_the_one_that_loses_the_race_for_the_lock_exits_with_1(agent: Agent, engine: Engine, source: Path) -> None:
    agent.hold()
    done = Agent(source, target_of(source), engine).once(Store("turn_new", AT))
    agent.release()
    assert done.returncode == 1
    assert "lock" in done.stdout
    assert Agent(source, target_of(source), engine).once(Store("turn_2nd", AT + 1)).returncode == 0
    with closing(sqlite3.connect(source)) as connection:
        there = connection.execute("SELECT turn_id FROM memory_turns ORDER BY id DESC LIMIT 2").fetchall()
    assert there == [("turn_2nd",), ("turn_new",)], "SQLite has both"


def test_a_log_that_seems_broken_is_moved_away(agent: Agent, source: Path) -> None:
    target = target_of(source)
    with pytest.raises(DiedError):
        agent.do(Store("turn_new", AT), die_after=IN_SQLITE + 6)
    log = beside(target, ".wal")
    log.write_bytes(log.read_bytes()[:-7] + b"\xff" * 40)
    assert len(agent.must(Visible())) >= 3 * TURNS
    assert list(target.parent.glob("*.wal.bak_*"))
