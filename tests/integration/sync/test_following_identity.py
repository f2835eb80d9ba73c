"""An id that means another memory than it did: neither the agent's memories nor SQLite's are lost to it."""

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.following import NODES, Following, agent, ask, new_turn, written_by_agent
from support.memories import (
    assert_same,
    change,
    edge,
    make_memory,
    migrate,
    node,
    read_quarantine,
    read_target,
    turn,
    vector,
)
from support.torture import beside, state_of

import nimad.sync.round as supervisor
from nimad.source.schema import Column, Schema, Table, ValueKind
from nimad.state import ledger
from nimad.state.ledger import Entry, LeftRow
from nimad.sync.result import SyncResult
from nimad.worker.protocol import Late, Task

TABLE = Table("memory_nodes", "id", (Column("text", "text", ValueKind.STRING),))
OWN = "MATCH (n:MemoryNode) WHERE n.turn_id = 'mine' RETURN n.id, n.text"


def schema_of(target: Path) -> Schema:
    return Schema.from_json(state_of(target)["schema"])


def agent_takes(target: Path, key: int) -> None:
    """nima-core deletes a memory and gives its id to one of its own."""
    with agent(target) as connection:
        connection.execute(f"MATCH (n:MemoryNode) WHERE n.id = {key} DETACH DELETE n")
        connection.execute(
            f"CREATE (:MemoryNode {{id: {key}, layer: 'input', turn_id: 'mine', text: 'agent only', timestamp: 5}})"
        )


def forget(sqlite: Path, nodes: Sequence[int], turns: Sequence[int] = ()) -> None:
    """The agent deletes memories in SQLite, with what hangs on them."""
    listed = ", ".join(map(str, nodes))
    if turns:
        change(sqlite, f"DELETE FROM memory_turns WHERE id IN ({', '.join(map(str, turns))})")
    change(sqlite, f"DELETE FROM memory_edges WHERE source_id IN ({listed}) OR target_id IN ({listed})")
    change(sqlite, f"DELETE FROM memory_nodes WHERE id IN ({listed})")


# Ids that the agent took again


def test_a_memory_that_took_a_noted_id_is_not_overwritten(follow: Following) -> None:
    agent_takes(follow.target, 60)
    change(follow.source, "UPDATE memory_nodes SET last_accessed = 99999 WHERE id = 60")
    assert follow().added == 1
    assert ask(follow.target, OWN) == [[60, "agent only"]]
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.text = 'memory 60' RETURN n.id") == [[-1]]


def test_what_lost_its_id_to_the_agent_comes_back_once_sqlite_changes_it(follow: Following) -> None:
    agent_takes(follow.target, 60)
    assert follow(thorough=True) == SyncResult(nodes=NODES), "the agent took it out"
    change(follow.source, "UPDATE memory_nodes SET summary = 'recalled' WHERE id = 60")
    assert follow(thorough=True).added == 1
    assert ask(follow.target, "MATCH (:Turn {id: 20})-[:has_output]->(n:MemoryNode) RETURN n.id") == [[-1]]
    assert follow(thorough=True) == SyncResult(nodes=NODES + 1)


def test_a_memory_that_took_a_noted_id_outlives_the_one_that_had_it(follow: Following) -> None:
    agent_takes(follow.target, 60)
    forget(follow.source, [60], [20])
    follow(thorough=True)
    assert ask(follow.target, OWN) == [[60, "agent only"]]


def test_without_a_mark_nothing_is_removed(follow: Following) -> None:
    kept = beside(follow.target, ".ledger")
    notes = ledger.read_notes(kept)["memory_nodes"]
    (table,) = [each for each in schema_of(follow.target).tables() if each.name == "memory_nodes"]
    kept.unlink()
    rows = {key: Entry(digest, notes.checks[key][1]) for key, digest in notes.digests.items()}
    ledger.append(kept, ledger.packed(table, rows))
    forget(follow.source, [60], [20])
    assert follow(thorough=True).removed == 0
    assert len(read_target(follow.target).nodes) == NODES
    assert follow(thorough=True) == SyncResult(nodes=NODES)


# Ids that SQLite gave out again


def test_a_backup_that_was_put_back_replaces_no_memory(follow: Following) -> None:
    backup = follow.source.with_name("backup.sqlite")
    shutil.copy(follow.source, backup)
    for number in range(100, 105):
        new_turn(follow.source, number)
    follow()
    follow.source.write_bytes(backup.read_bytes())
    for number in range(200, 205):
        new_turn(follow.source, number)
    before = read_target(follow.target).nodes
    assert "has lost 15 of the 75 rows of memory_nodes" in follow(thorough=True).left_alone
    assert "has lost 15 of the 75 rows" in follow().left_alone, "the ends of what is new tell a quick look"
    assert read_target(follow.target).nodes == before


def test_another_memory_in_the_same_file_is_refused(follow: Following) -> None:
    other = make_memory(
        follow.source.with_name("other.sqlite"),
        nodes=[node(key, turn_id=f"o{key}", embedding=vector(key, 9, 9, 9)) for key in range(1, NODES + 1)],
        edges=[edge(key, key, key + 1) for key in range(1, NODES, 3)],
        turns=[turn(1 + key // 3, key, key + 1, key + 2) for key in range(1, NODES, 3)],
    )
    follow.source.write_bytes(other.read_bytes())
    assert "has lost 60 of the 60 rows" in follow(thorough=True).left_alone
    assert ask(follow.target, "MATCH (n:MemoryNode {id: 3}) RETURN n.turn_id") == [["turn_1"]]


@pytest.mark.long
def test_a_turn_that_was_said_anew_takes_the_place_of_the_one_that_went(follow: Following) -> None:
    ids = new_turn(follow.source, 100)
    follow()
    forget(follow.source, ids, [100])
    assert new_turn(follow.source, 101) == ids
    done = follow(thorough=True)
    assert (done.added, done.removed) == (3, 3)
    assert_same(follow.source, follow.target)
    assert follow(thorough=True) == SyncResult(nodes=NODES + 3)


@pytest.mark.long
def test_a_removal_under_another_id_takes_no_row_that_came_to_it(follow: Following) -> None:
    ids = new_turn(follow.source, 100)
    written_by_agent(follow.target, 100, [key + 1 for key in ids])
    follow()
    change(follow.source, "UPDATE memory_turns SET output_node_id = NULL WHERE output_node_id = 63")
    forget(follow.source, [63])
    change(
        follow.source,
        "INSERT INTO memory_nodes (id, timestamp, layer, text, turn_id) VALUES (64, 1, 'output', 'precious', 't9')",
    )
    follow(thorough=True, last=True)
    precious = "MATCH (n:MemoryNode) WHERE n.text = 'precious' RETURN count(*)"
    assert ask(follow.target, precious) == [[1]]
    follow(thorough=True, last=True)
    assert ask(follow.target, precious) == [[1]]
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN count(*)") == [[2]]


def test_what_was_added_by_one_that_was_killed_goes_with_its_source(
    follow: Following,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = new_turn(follow.source, 100)
    do = supervisor.SyncRound._do

    def killed(self: supervisor.SyncRound, job: object) -> object:
        if job.task is Task.CONFIRM:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return do(self, job)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(supervisor.SyncRound, "_do", killed)
        with pytest.raises(KeyboardInterrupt):
            follow()
    forget(follow.source, ids, [100])
    follow(thorough=True, last=True)
    assert_same(follow.source, follow.target)


# Ledgers


def test_a_ledger_that_was_cut_overwrites_nothing(follow: Following) -> None:
    written_by_agent(follow.target, 555, [61, 62, 63])
    new_turn(follow.source, 100)
    kept = beside(follow.target, ".ledger")
    whole = kept.stat().st_size
    follow()
    records = kept.read_bytes()
    for size in range(whole, len(records), 34):
        kept.write_bytes(records[: size + 5])
        notes = ledger.read_notes(kept)["memory_nodes"]
        assert all(notes.id_of(key) < 0 for key in notes.digests if key > NODES), "no row without its id"
    change(follow.source, "UPDATE memory_nodes SET last_accessed = 99999 WHERE id = 61")
    follow()
    mine = "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_555' RETURN n.id ORDER BY n.id"
    assert ask(follow.target, mine) == [[61], [62], [63]]


def test_a_ledger_keeps_aliases_until_they_are_said_to_be_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger.append(path, ledger.packed(TABLE, {5: Entry(b"12345678", b"abcd", b"m" * 8, -1)}))
    ledger.append(path, ledger.packed_aside("memory_nodes", {6: b"a" * 8}))
    ledger.append(path, ledger.packed(TABLE, {6: Entry(b"b" * 8, b"efgh")}))
    notes = ledger.read_notes(path)["memory_nodes"]
    assert (notes.aliases, notes.aside) == ({5: -1}, {})
    assert (notes.base(5), notes.base(6)) == ({"text": b"abcd"}, {"text": b"efgh"})
    ledger.append(path, ledger.packed(TABLE, {}, [5]))
    notes = ledger.read_notes(path)["memory_nodes"]
    assert (notes.digests, notes.aliases) == ({6: b"b" * 8}, {})
    assert notes.left == {5: LeftRow(-1, b"m" * 8, (("text",), b"abcd"))}


def test_half_of_what_a_full_disk_took_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    ledger.append(path, ledger.packed(TABLE, {5: Entry(b"12345678", b"abcd")}))
    before, write = path.read_bytes(), os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:34])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.append(path, ledger.packed(TABLE, {6: Entry(b"12345678", b"abcd", b"m" * 8, -1)}))
    assert path.read_bytes() == before


@pytest.mark.long
def test_an_alias_whose_row_the_agent_took_out_is_not_kept(follow: Following) -> None:
    ids = new_turn(follow.source, 100)
    written_by_agent(follow.target, 100, [key + 50 for key in ids])
    follow()
    with agent(follow.target) as connection:
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 111 DETACH DELETE n")
    assert follow(thorough=True) == SyncResult(nodes=NODES + 3)
    assert ledger.read_notes(beside(follow.target, ".ledger"))["memory_nodes"].aliases.keys() == {62, 63} - {61}
    change(follow.source, "UPDATE memory_nodes SET summary = 'again' WHERE id = 61")
    assert follow(thorough=True).added == 1
    assert follow(thorough=True) == SyncResult(nodes=NODES + 3)


@pytest.mark.long
def test_a_row_that_is_bad_again_is_quarantined_again(follow: Following) -> None:
    for text, listed in (("CAST(X'FF' AS TEXT)", 1), ("'good'", 0), ("CAST(X'FF' AS TEXT)", 1), ("'good'", 0)):
        change(follow.source, f"UPDATE memory_nodes SET text = {text} WHERE id = 5")
        follow(thorough=True)
        assert len(read_quarantine(follow.target)) == listed
    assert ask(follow.target, "MATCH (n:MemoryNode {id: 5}) RETURN n.text") == [["good"]]


# What is recognised


def test_an_empty_turn_recognises_nothing(follow: Following) -> None:
    with agent(follow.target) as connection:
        connection.execute(
            "CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: '', text: 'agent only', timestamp: 5})"
        )
    change(
        follow.source,
        "INSERT INTO memory_nodes (id, timestamp, layer, text, turn_id) VALUES (61, 9, 'input', 'SQLite only', '')",
    )
    assert follow().quarantined == 1
    assert ask(follow.target, "MATCH (n:MemoryNode {id: 61}) RETURN n.text") == [["agent only"]]


def test_two_memories_of_one_turn_and_layer_stay_two(follow: Following) -> None:
    with agent(follow.target) as connection:
        connection.execute(
            "CREATE (:MemoryNode {id: 61, layer: 'contemplation', turn_id: 'turn_100', text: 'second', timestamp: 7})"
        )
    change(
        follow.source,
        "INSERT INTO memory_nodes (id, timestamp, layer, text, turn_id) "
        "VALUES (90, 3, 'contemplation', 'first', 'turn_100')",
    )
    follow()
    texts = "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN n.id, n.text ORDER BY n.id"
    assert ask(follow.target, texts) == [[61, "second"], [90, "first"]]


def test_a_memory_without_a_turn_is_recognised_under_another_id(follow: Following) -> None:
    whole = "the same " * 300
    with agent(follow.target) as connection:
        cut = f"{whole[:1997]}..."
        connection.execute(f"CREATE (:MemoryNode {{id: 70, layer: 'input', text: '{cut}', timestamp: 5}})")
    change(follow.source, "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (61, 5, 'input', ?)", whole)
    follow(thorough=True)
    there = ask(follow.target, "MATCH (n:MemoryNode) WHERE n.text STARTS WITH 'the same' RETURN n.id, n.text")
    assert there == [[70, whole]]


def test_a_memory_without_a_turn_that_the_agent_rewrote_is_the_same_without_a_ledger(tmp_path: Path) -> None:
    """Its id, layer and millisecond are those of one memory alone."""
    source = make_memory(
        tmp_path / "graph.sqlite", nodes=[node(key, timestamp=1_000 + key, text=f"text {key}") for key in range(1, 9)]
    )
    target = migrate(source, reader_python=Path("none")).target
    with agent(target) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 5}) SET n.text = 'rewritten by the agent'")
    beside(target, ".ledger").unlink()
    Following(source)(thorough=True)
    assert len(read_target(target).nodes) == 8
    assert ask(target, "MATCH (n:MemoryNode {id: 5}) RETURN n.text") == [["rewritten by the agent"]]
    assert read_quarantine(target) == []


def test_nothing_in_sqlite_erases_what_the_agent_put_into_the_target(follow: Following) -> None:
    change(
        follow.source,
        "INSERT INTO memory_nodes (id, timestamp, layer, text, turn_id) VALUES (61, 9, 'input', 'hello', 't9')",
    )
    follow()
    with agent(follow.target) as connection:
        connection.execute(
            "MATCH (n:MemoryNode) WHERE n.id = 61 "
            "SET n.embedding = CAST([1.0, 2.0, 3.0, 4.0] AS FLOAT[4]), n.themes = 'x'"
        )
    change(follow.source, "UPDATE memory_nodes SET last_accessed = 99999 WHERE id = 61")
    assert follow().changed == 1
    there = ask(follow.target, "MATCH (n:MemoryNode {id: 61}) RETURN n.embedding, n.themes, n.last_accessed")
    assert there == [[[1.0, 2.0, 3.0, 4.0], "x", 99999]]


def test_links_to_the_agents_own_memories_stay(follow: Following) -> None:
    with agent(follow.target) as connection:
        connection.execute("CREATE (:MemoryNode {id: 500, layer: 'contemplation', text: 'own', turn_id: 'mine'})")
        connection.execute(
            "MATCH (t:Turn), (n:MemoryNode) WHERE t.id = 20 AND n.id = 500 CREATE (t)-[:has_contemplation]->(n)"
        )
    change(follow.source, "UPDATE memory_turns SET affect_json = '{}', contemplation_node_id = 58 WHERE id = 20")
    follow()
    linked = "MATCH (t:Turn {id: 20})-[:has_contemplation]->(n:MemoryNode) RETURN n.id ORDER BY n.id"
    assert ask(follow.target, linked) == [[58], [500]]


# A look that believes no note


def distrusting(follow: Following, monkeypatch: pytest.MonkeyPatch) -> SyncResult:
    """A thorough look that compares with the target."""
    run = supervisor.SyncRound.run

    def asked(self: supervisor.SyncRound, late: Late) -> supervisor.RoundResult:
        return run(self, replace(late, distrust=True))

    with monkeypatch.context() as patched:
        patched.setattr(supervisor.SyncRound, "run", asked)
        return follow(thorough=True, last=True)


def test_an_older_copy_of_the_target_is_brought_forward(
    follow: Following,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = follow.target.read_bytes()
    ids = new_turn(follow.source, 100)
    change(follow.source, "UPDATE memory_nodes SET text = 'edited' WHERE id = 5")
    change(follow.source, "UPDATE memory_turns SET output_node_id = 7 WHERE id = 2")
    change(follow.source, "UPDATE memory_edges SET weight = 0.125, target_id = 9 WHERE id = 4")
    change(follow.source, "DELETE FROM memory_edges WHERE id = 1")
    forget(follow.source, [60], [20])
    follow(thorough=True, last=True)
    assert_same(follow.source, follow.target)
    follow.target.write_bytes(old)
    with agent(follow.target) as connection:
        connection.execute("CREATE (:MemoryNode {id: 500, layer: 'input', text: 'agent only', turn_id: 'mine'})")
    done = distrusting(follow, monkeypatch)
    assert done.added == len(ids)
    assert ask(follow.target, OWN) == [[500, "agent only"]]
    with agent(follow.target) as connection:
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 500 DELETE n")
    assert_same(follow.source, follow.target)


def test_a_look_that_believes_nothing_writes_nothing_where_all_is_well(
    follow: Following,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = follow.target.read_bytes()
    assert distrusting(follow, monkeypatch) == SyncResult(nodes=NODES)
    assert follow.target.read_bytes() == before
