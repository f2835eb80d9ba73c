"""Ids that the agent keeps in files of its own: a new target has each memory under the one that it had in the target
before, whatever SQLite's is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.environments import ENGINES, MakeEnvironment, answering
from support.following import NODES, Following, ask, new_turn, written_by_agent
from support.memories import change, edge, make_memory, migrate, node, read_source, turn, vector
from support.torture import beside, killed_once_done, target_of
from test_rollback import said_there, saying
from test_three_way import by_agent, value

from nimad.compare.comparison import compare
from nimad.config import Settings
from nimad.events.run import BroughtAlong, SetAside
from nimad.report.messages import carry_over_messages
from nimad.rollback import rollback
from nimad.sync.result import SyncResult
from nimad.worker.protocol import Task
from nimad.worker.target_only.renumber import in_order


def ids_in(target: Path) -> dict[Any, int]:
    """By turn and layer, the ids of memories; by turn alone, those of turns."""
    found: dict[Any, int] = {}
    for key, name, layer in ask(target, "MATCH (n:MemoryNode) RETURN n.id, n.turn_id, n.layer"):
        found[name, layer] = key
    found.update({name: key for key, name in ask(target, "MATCH (n:Turn) RETURN n.id, n.turn_id")})
    return found


def in_sqlite(source: Path) -> set[Any]:
    memory = read_source(source)
    names: set[Any] = {(row["turn_id"], row["layer"]) for row in memory.nodes.values()}
    return names | {row["turn_id"] for row in memory.turns.values()}


@pytest.fixture
def diverged(follow: Following) -> Following:
    """The agent stores turns on both sides, each under another id there; two of them have each other's."""
    written_by_agent(follow.target, 101, new_turn(follow.source, 100))
    written_by_agent(follow.target, 100, new_turn(follow.source, 101))
    new_turn(follow.source, 102)
    written_by_agent(follow.target, 102, [1_067, 1_068, 1_069])
    follow()
    by_agent(
        follow.target,
        "ALTER TABLE MemoryNode ADD own_note STRING",
        "MATCH (n:MemoryNode {id: 61}) SET n.is_ghost = true, n.dismissal_count = 3",
        "MATCH (n:MemoryNode {id: 1067}) SET n.text = 'of the agent', n.own_note = 'kept'",
        "MATCH (a:MemoryNode {id: 1068}), (b:MemoryNode {id: 3}) CREATE (a)-[:relates_to {relation: 'own'}]->(b)",
    )
    return follow


def assert_kept(follow: Following, before: Mapping[Any, int]) -> None:
    after = ids_in(follow.target)
    assert {name: after[name] for name in before} == before
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.is_ghost RETURN n.id, n.turn_id") == [[61, "turn_101"]]
    assert value(follow.target, 1_067, "turn_id", "text", "own_note") == ["turn_102", "of the agent", "kept"]
    own = "MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) WHERE r.relation = 'own' RETURN a.id, b.id"
    assert ask(follow.target, own) == [[1_068, 3]]


def test_a_new_target_has_the_ids_of_the_one_before(diverged: Following) -> None:
    before, said = ids_in(diverged.target), said_there(diverged.target)
    for _ in range(2):
        done = migrate(diverged.source, replace=True, reader_python=Path("none"))
        assert_kept(diverged, before)
        assert said_there(diverged.target) == said, "with every edge and link"
        told = done.only(BroughtAlong)
        assert told.ids == {"memory_nodes": 9, "memory_turns": 3}
        words = " ".join(text for _, text in carry_over_messages.WORDS[BroughtAlong](told))
        assert "Under the ids of the target before, which are not SQLite's: 9 memories, 3 turns" in words
    assert compare(Settings(source=diverged.source, target=diverged.target)).total("lacking") == 0
    assert diverged(thorough=True) == SyncResult(nodes=NODES + 9), "and following leaves it alone"


def test_following_goes_on_by_the_ids_that_were_kept(diverged: Following) -> None:
    before = ids_in(diverged.target)
    migrate(diverged.source, replace=True, reader_python=Path("none"))
    change(diverged.source, "UPDATE memory_nodes SET summary = 'edited' WHERE id = 61")
    change(diverged.source, "UPDATE memory_nodes SET strength = 0.25, last_accessed = 99999 WHERE id = 64")
    change(diverged.source, "DELETE FROM memory_edges WHERE source_id = 62")
    assert diverged(thorough=True).changed == 2
    assert value(diverged.target, before["turn_100", "input"], "summary") == ["edited"]
    assert value(diverged.target, before["turn_101", "input"], "strength") == [0.25]
    new_turn(diverged.source, 103)
    assert diverged().added == 3
    assert_kept(diverged, before)
    compared = compare(Settings(source=diverged.source, target=diverged.target))
    assert compared.total("lacking") + compared.total("late") == 0


def test_what_only_sqlite_has_gives_way_where_the_target_before_had_its_id(follow: Following) -> None:
    written_by_agent(follow.target, 555, [61, 62, 63])
    assert new_turn(follow.source, 100) == [61, 62, 63]
    new_turn(follow.source, 101)
    before = ids_in(follow.target)
    migrate(follow.source, replace=True, reader_python=Path("none"))
    after = ids_in(follow.target)
    assert {name: after[name] for name in before} == before
    assert sorted(after["turn_100", layer] for layer in ("input", "contemplation", "output")) == [-3, -2, -1]
    assert after["turn_101", "input"] == 64
    edges = "MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) WHERE a.id < 0 AND b.id < 0 RETURN count(*)"
    assert ask(follow.target, edges) == [[2]]
    links = "MATCH (t:Turn {turn_id: 'turn_100'})-[:has_output]->(n:MemoryNode) RETURN n.layer"
    assert ask(follow.target, links) == [["output"]]
    assert follow(thorough=True) == SyncResult(nodes=NODES + 9)


@pytest.mark.long
def test_the_id_of_a_memory_that_the_agent_took_out_is_free(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode {id: 60}) DETACH DELETE n")
    written_by_agent(follow.target, 555, [60, 61, 62])
    new_turn(follow.source, 555, first=70)
    follow(thorough=True)
    before = ids_in(follow.target)
    migrate(follow.source, replace=True, reader_python=Path("none"))
    assert ids_in(follow.target) == before
    assert value(follow.target, 60, "turn_id") == ["turn_555"]


@pytest.mark.long
def test_memories_of_one_moment_without_a_turn_are_told_apart_by_the_ledger(follow: Following) -> None:
    """Layer and moment are the same: only its id, or its text, says which is which."""
    rows = [node(key, layer="input", turn_id=None, text=f"nameless {key}", timestamp=7) for key in (61, 62, 63)]
    for row in rows:
        names = ", ".join(row)
        change(follow.source, f"INSERT INTO memory_nodes ({names}) VALUES ({', '.join('?' * len(row))})", *row.values())
    by_agent(
        follow.target,
        *(
            f"CREATE (:MemoryNode {{id: {at}, layer: 'input', text: 'nameless {key}', timestamp: 7}})"
            for key, at in ((61, 63), (62, 61), (63, 62))
        ),
    )
    follow()
    texts = "MATCH (n:MemoryNode) WHERE n.id > 60 RETURN n.id, n.text ORDER BY n.id"
    before = ask(follow.target, texts)
    assert before == [[61, "nameless 62"], [62, "nameless 63"], [63, "nameless 61"]]
    migrate(follow.source, replace=True, reader_python=Path("none"))
    assert ask(follow.target, texts) == before
    by_agent(follow.target, "MATCH (n:MemoryNode {id: 61}) SET n.text = 'of the agent'")
    found = compare(Settings(source=follow.source, target=follow.target)).tables["memory_nodes"]
    assert found.lacking.count + found.extra.count == 0
    assert [key for key, _ in found.differing.first] == [62]


@pytest.mark.long
def test_a_moment_that_is_put_right_leaves_a_memory_its_id(follow: Following) -> None:
    written_by_agent(follow.target, 555, [61, 62, 63])
    row = "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (61, 'soon', 'input', 'nameless')"
    change(follow.source, row)
    migrate(follow.source, replace=True, reader_python=Path("none"))
    by_agent(follow.target, "MATCH (n:MemoryNode {id: -1}) SET n.strength = 0.125")
    change(follow.source, "UPDATE memory_nodes SET timestamp = 7 WHERE id = 61")
    migrate(follow.source, retry=True, reader_python=Path("none"))
    there = ask(follow.target, "MATCH (n:MemoryNode {text: 'nameless'}) RETURN n.id, n.timestamp, n.strength")
    assert there == [[-1, 7, 0.125]], "and it is there once"


@pytest.mark.long
def test_a_rollback_knows_the_ids_that_were_kept(diverged: Following) -> None:
    migrate(diverged.source, replace=True, reader_python=Path("none"))
    here = saying(read_source(diverged.source))[0]
    done = rollback.apply_rollback(Settings(source=diverged.source, reader_python=Path("none")))
    assert {table: listed.count for table, listed in done.added.items()} == {"memory_edges": 1}, "the agent's own"
    assert len(saying(read_source(diverged.source))[0]) == len(here) == NODES + 9


@pytest.mark.long
def test_a_run_whose_worker_died_after_it_keeps_the_ids_all_the_same(
    diverged: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, died = ids_in(diverged.target), killed_once_done(monkeypatch, Task.RESTORE_TARGET_ONLY)
    done = migrate(diverged.source, replace=True, reader_python=Path("none"))
    assert len(done.all(SetAside)) == len(died) == 1
    assert_kept(diverged, before)
    assert diverged(thorough=True) == SyncResult(nodes=NODES + 9)


@pytest.mark.long
@pytest.mark.sampled
@pytest.mark.parametrize("requirement", list(reversed(ENGINES)))
def test_every_engine_keeps_them_with_and_without_pyarrow(
    tmp_path: Path, make_environment: MakeEnvironment, requirement: str
) -> None:
    engine = make_environment(requirement).engine(ENGINES[requirement])
    rows = range(1, 31)
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(key, turn_id=f"t{key}", text='{"a": 0.5}', embedding=vector(key, 2)) for key in rows],
        edges=[edge(key, key, key + 1) for key in rows[:-1]],
        turns=[turn(key, key, key, key) for key in rows],
    )
    settings: dict[str, Any] = {"reader_python": engine.python, "engine_python": engine.python}
    migrate(source, **settings)
    target = target_of(source)
    with answering(engine, target, read_only=False) as (ask_it, _):  # as if the agent had stored them so
        ask_it("MATCH (n:MemoryNode) DETACH DELETE n")
        for key in rows:
            ask_it(
                f"CREATE (:MemoryNode {{id: {31 - key}, turn_id: 't{key}', layer: 'input', timestamp: 1700000000000}})"
            )
    beside(target, ".ledger").unlink()
    done = migrate(source, replace=True, **settings)
    assert done.only(BroughtAlong).ids == {"memory_nodes": 30}
    with answering(engine, target, read_only=True) as (ask_it, _):
        assert ask_it("MATCH (n:MemoryNode) RETURN n.id, n.turn_id ORDER BY n.id") == [[k, f"t{31 - k}"] for k in rows]
        ends = "MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) RETURN r.edge_id, a.id, b.id ORDER BY r.edge_id"
        assert ask_it(ends) == [[key, 31 - key, 30 - key] for key in rows[:-1]]
        links = "MATCH (a:Turn)-[r:has_input]->(b:MemoryNode) RETURN a.id, b.id ORDER BY a.id"
        assert ask_it(links) == [[key, 31 - key] for key in rows]


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_an_id_is_free_by_the_time_that_a_row_gets_it(order: list[int], moving: set[int]) -> None:
    ids = {key: at + 3 for key, at in enumerate(order) if key in moving}
    there = set(range(15)) - (set(ids.values()) - ids.keys())
    held = {key: key for key in there}
    for moves in in_order(ids, 0):
        for key, at in moves:
            assert at not in held
            held[at] = held.pop(key)
    assert {row: at for at, row in held.items()} == {key: ids.get(key, key) for key in there}
