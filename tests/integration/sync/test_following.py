"""A published target is kept up to date: what the agent writes to SQLite afterwards arrives, once, in whole turns."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.following import NODES, Following, agent, ask, new_turn, written_by_agent
from support.memories import (
    ENGINE_LIMITS,
    Memory,
    assert_same,
    change,
    edge,
    insert,
    make_memory,
    migrate,
    node,
    read_quarantine,
    read_target,
    turn,
    vector,
)
from support.torture import beside, state_of, target_of

import nimad
from nimad.errors import EngineError
from nimad.events.run import NothingToDo
from nimad.events.sync import CaughtUp as Arrived
from nimad.events.sync import ColumnsLeftOut, LeftAlone, Moved
from nimad.migration.late_vector_index import index
from nimad.state.paths import Files, locked
from nimad.sync.result import SyncResult


def contents(memory: Memory) -> tuple[Any, ...]:
    """What a memory says, whatever its ids are."""
    name = {key: (row["turn_id"], row["layer"], row["text"]) for key, row in memory.nodes.items()}
    turns = {key: row["turn_id"] for key, row in memory.turns.items()}
    return (
        sorted(name.values(), key=repr),
        sorted((name[row["source_id"]], name[row["target_id"]], row["edge_id"]) for row in memory.edges.values()),
        {kind: sorted((turns[a], name[b]) for a, b in pairs) for kind, pairs in memory.links.items()},
    )


def flat(rows: list[list[Any]]) -> list[Any]:
    return [row[0] for row in rows]


def pieces(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.parent.iterdir() if path.name.startswith(target.name)}


# What arrives


@pytest.mark.long
def test_nothing_new_leaves_every_byte_alone(follow: Following) -> None:
    before = pieces(follow.target)
    assert follow() == SyncResult(nodes=NODES)
    assert follow(thorough=True) == SyncResult(nodes=NODES)
    assert pieces(follow.target) == before
    assert follow.events == []


@pytest.mark.long
def test_a_new_turn_arrives(follow: Following) -> None:
    new_turn(follow.source, 100)
    before = follow.target.read_bytes()
    assert follow() == SyncResult(added=3, edges=2, turns=1, nodes=NODES + 3)
    assert_same(follow.source, follow.target)
    assert follow.target.read_bytes() == before, "what a card would have to write is in the log"
    assert beside(follow.target, ".wal").stat().st_size < 40_000
    assert [event.nodes for event in follow.all(Arrived)] == [NODES + 3]  # type: ignore[attr-defined]
    assert follow() == SyncResult(nodes=NODES + 3)


def test_many_rows_take_several_transactions(follow: Following) -> None:
    with closing(sqlite3.connect(follow.source)) as connection:
        insert(connection, "memory_nodes", [node(key) for key in range(1_000, 2_300)])
        insert(connection, "memory_edges", [edge(key, key, key + 1) for key in range(1_000, 2_200)])
        connection.commit()
    assert follow() == SyncResult(added=1_300, edges=1_200, nodes=NODES + 1_300)
    assert_same(follow.source, follow.target)


def test_a_recall_arrives_at_once(follow: Following) -> None:
    follow()
    change(follow.source, "UPDATE memory_nodes SET strength = 0.9, last_accessed = 5000 WHERE id = 7")
    assert follow() == SyncResult(changed=1, nodes=NODES)
    assert_same(follow.source, follow.target)


@pytest.mark.long
def test_an_answer_is_linked_once_its_turn_knows_it(follow: Following) -> None:
    ids = new_turn(follow.source, 100)
    change(follow.source, "UPDATE memory_turns SET output_node_id = NULL WHERE turn_id = 'turn_100'")
    follow()
    change(follow.source, f"UPDATE memory_turns SET output_node_id = {ids[2]} WHERE turn_id = 'turn_100'")
    assert follow().turns == 1
    assert_same(follow.source, follow.target)
    change(follow.source, f"UPDATE memory_turns SET output_node_id = {ids[1]} WHERE turn_id = 'turn_100'")
    assert follow().turns == 1
    assert_same(follow.source, follow.target)


def test_an_edit_is_found_by_a_thorough_look(follow: Following) -> None:
    follow()
    change(follow.source, "UPDATE memory_nodes SET text = 'another' WHERE id = 3")
    change(follow.source, "UPDATE memory_edges SET weight = 0.125, target_id = 9 WHERE id = 4")
    assert follow() == SyncResult(nodes=NODES)
    assert follow(thorough=True) == SyncResult(changed=1, edges=1, nodes=NODES)
    assert_same(follow.source, follow.target)


def test_a_row_below_the_highest_id_is_found_by_a_thorough_look(follow: Following) -> None:
    new_turn(follow.source, 100, first=500)
    follow()
    new_turn(follow.source, 101, first=200)
    assert follow(thorough=True).added == 3
    assert_same(follow.source, follow.target)


def test_a_node_that_comes_after_what_hangs_on_it_is_joined_to_it(follow: Following) -> None:
    with closing(sqlite3.connect(follow.source)) as connection:
        insert(connection, "memory_edges", [edge(900, 1, 777)])
        insert(connection, "memory_turns", [turn(900, 1, 777)])
        connection.commit()
    assert follow().quarantined == 2
    assert state_of(follow.target)["quarantined"] == 2
    change(follow.source, "INSERT INTO memory_nodes (id, text) VALUES (777, 'late')")
    assert follow() == SyncResult(added=1, edges=1, turns=1, nodes=NODES + 1)
    assert_same(follow.source, follow.target)
    assert read_quarantine(follow.target) == []
    assert state_of(follow.target)["quarantined"] == 0


@pytest.mark.long
def test_what_is_deleted_goes_too(follow: Following) -> None:
    new_turn(follow.source, 100)
    follow()
    change(follow.source, "DELETE FROM memory_turns WHERE id = 2")
    change(follow.source, "DELETE FROM memory_edges WHERE source_id = 4 OR target_id = 4")
    change(follow.source, "DELETE FROM memory_nodes WHERE id = 4")
    assert follow(thorough=True).removed == 1
    assert_same(follow.source, follow.target)
    assert follow(thorough=True) == SyncResult(nodes=NODES + 2)


def test_a_source_that_lost_much_takes_nothing_with_it(follow: Following) -> None:
    change(follow.source, "DELETE FROM memory_nodes WHERE id > 20")
    before = pieces(follow.target)
    done = follow(thorough=True)
    assert "has lost 40 of the 60 rows of memory_nodes" in done.left_alone
    assert "nothing was removed" in done.left_alone
    follow(thorough=True)
    assert len(follow.all(LeftAlone)) == 1, "a reason is told once"
    assert pieces(follow.target) == before


@pytest.mark.long
def test_an_embedding_of_another_length_is_quarantined(follow: Following) -> None:
    change(follow.source, "INSERT INTO memory_nodes (id, text, embedding) VALUES (70, 'x', ?)", vector(1, 2))
    assert follow() == SyncResult(added=1, quarantined=1, nodes=NODES + 1)
    (entry,) = read_quarantine(follow.target)
    assert (entry["table"], entry["id"], entry["part"]) == ("memory_nodes", 70, "embedding")
    assert follow(thorough=True) == SyncResult(nodes=NODES + 1)
    change(follow.source, "UPDATE memory_nodes SET embedding = ? WHERE id = 70", vector(1, 2, 3, 4))
    assert follow(thorough=True).changed == 1
    assert read_quarantine(follow.target) == []
    assert_same(follow.source, follow.target)


@pytest.mark.long
def test_a_value_that_cannot_be_is_quarantined_once(follow: Following) -> None:
    change(follow.source, "INSERT INTO memory_nodes (id, timestamp, text) VALUES (70, 'noon', 'x')")
    assert follow() == SyncResult(added=1, quarantined=1, nodes=NODES + 1)
    before = pieces(follow.target)
    assert follow() == SyncResult(nodes=NODES + 1)
    assert follow(thorough=True) == SyncResult(nodes=NODES + 1)
    assert pieces(follow.target) == before, "it is not looked at again until it changes"
    change(follow.source, "UPDATE memory_nodes SET timestamp = 5 WHERE id = 70")
    done = follow(thorough=True)  # without a turn, another moment is another memory
    assert (done.added, done.removed, done.nodes) == (1, 1, NODES + 1)
    assert read_quarantine(follow.target) == []
    assert_same(follow.source, follow.target)


# What the agent wrote to the target itself


@pytest.mark.sampled
@pytest.mark.parametrize("shift", [0, 1, 50], ids=["same ids", "ids that overlap", "other ids"])
def test_what_the_agent_wrote_to_both_is_there_once_and_whole(follow: Following, shift: int) -> None:
    ids = new_turn(follow.source, 100)
    written_by_agent(follow.target, 100, [key + shift for key in ids])
    follow()
    there = read_target(follow.target)
    with sqlite3.connect(follow.source) as connection:
        texts = [row[0] for row in connection.execute("SELECT text FROM memory_nodes WHERE turn_id = 'turn_100'")]
    mine = [row for row in there.nodes.values() if row["turn_id"] == "turn_100"]
    assert sorted(row["text"] for row in mine) == sorted(texts), "its text is whole"
    assert len(there.nodes) == NODES + 3
    assert len(there.turns) == NODES // 3 + 1
    assert len(there.edges) == NODES // 3 + 2, "no edge is there twice, and each has its key"
    change(follow.source, f"UPDATE memory_nodes SET text = 'edited', last_accessed = 9000 WHERE id = {ids[0]}")
    assert follow().changed == 1
    new_turn(follow.source, 101)
    follow(thorough=True)
    expected = contents(read_like_target(follow.source))
    assert contents(read_target(follow.target)) == expected
    assert follow(thorough=True) == SyncResult(nodes=NODES + 6)


def read_like_target(source: Path) -> Memory:
    """The source migrated anew, elsewhere."""
    target = source.with_name("anew.ladybug")
    migrate(source, target=target, reader_python=Path("none"))
    return read_target(target)


@pytest.mark.long
def test_an_id_that_the_agent_took_for_another_memory_is_left_to_it(follow: Following) -> None:
    written_by_agent(follow.target, 555, [NODES + 1, NODES + 2, NODES + 3])
    ids = new_turn(follow.source, 100)
    assert ids == [NODES + 1, NODES + 2, NODES + 3]
    assert follow() == SyncResult(added=3, edges=2, turns=1, nodes=NODES + 6)
    there = ask(
        follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN n.id, n.layer ORDER BY n.id DESC"
    )
    assert there == [[-1, "input"], [-2, "contemplation"], [-3, "output"]]
    edges = "MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) WHERE a.id < 0 RETURN a.id, b.id ORDER BY a.id DESC"
    assert ask(follow.target, edges) == [[-1, -2], [-2, -3]]
    links = "MATCH (t:Turn {turn_id: 'turn_100'})-[:has_output]->(n:MemoryNode) RETURN n.id"
    assert ask(follow.target, links) == [[-3]]
    change(follow.source, f"UPDATE memory_nodes SET text = 'edited' WHERE id = {ids[1]}")
    assert follow(thorough=True).changed == 1
    assert ask(follow.target, "MATCH (n:MemoryNode {id: -2}) RETURN n.text") == [["edited"]]
    beside(follow.target, ".ledger").unlink()
    assert follow(thorough=True).added == 0, "it is found by its turn and layer"


def test_a_memory_without_a_turn_whose_id_is_taken_is_quarantined(follow: Following) -> None:
    written_by_agent(follow.target, 555, [NODES + 1, NODES + 2, NODES + 3])
    change(follow.source, "INSERT INTO memory_nodes (id, text) VALUES (61, 'nobody knows my turn')")
    assert follow() == SyncResult(quarantined=1, nodes=NODES + 3)
    (entry,) = read_quarantine(follow.target)
    assert "its id 61 is another memory's in the target" in entry["reason"]


# Ledgers and logs


@pytest.mark.long
def test_a_ledger_that_is_gone_is_made_anew(follow: Following) -> None:
    new_turn(follow.source, 100)
    change(follow.source, "UPDATE memory_nodes SET text = 'edited' WHERE id = 3")
    beside(follow.target, ".ledger").unlink()
    assert follow() == SyncResult(added=3, edges=2, turns=1, nodes=NODES + 3)
    assert read_target(follow.target).nodes[3]["text"] == "memory 3", "nothing tells who changed it"
    before = pieces(follow.target)
    assert follow(thorough=True) == SyncResult(nodes=NODES + 3)
    assert pieces(follow.target) == before
    change(follow.source, "UPDATE memory_nodes SET text = 'edited again', strength = 0.25 WHERE id = 3")
    assert follow(thorough=True).changed == 1
    there = read_target(follow.target).nodes[3]
    assert (there["text"], there["strength"]) == ("memory 3", 0.25), "from then on it is known what each side changed"


def test_a_ledger_of_another_target_is_not_believed(follow: Following, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copy(follow.target, old)
    new_turn(follow.source, 100)
    follow(last=True)
    old.replace(follow.target)  # somebody puts a backup in its place
    assert follow().added == 3
    assert_same(follow.source, follow.target)


def test_a_log_that_is_torn_is_set_aside_and_all_is_brought_again(follow: Following) -> None:
    new_turn(follow.source, 100)
    follow()
    log = beside(follow.target, ".wal")
    status = log.stat()
    log.write_bytes(log.read_bytes()[:-700] + b"garbage" * 100)
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))  # the disk tore it: no program wrote to it
    new_turn(follow.source, 101)
    assert follow().added == 6
    assert_same(follow.source, follow.target)
    assert len(list(follow.target.parent.glob("graph.ladybug.wal.*"))) == 1


def test_the_ledger_is_not_believed_over_the_target(follow: Following) -> None:
    new_turn(follow.source, 100)
    follow()
    beside(follow.target, ".wal").unlink()
    assert follow().added == 3
    assert_same(follow.source, follow.target)


# Who else is there


@contextmanager
def opened_elsewhere(target: Path) -> Iterator[int]:
    """A process of its own has a target open for writing: a lock is a process's."""
    program = (
        "import sys, ladybug\n"
        f"d = ladybug.Database({str(target)!r}, **{ENGINE_LIMITS!r})\n"
        "print('open', flush=True)\nsys.stdin.readline()\nd.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield other.pid
        other.communicate(b"\n")


def test_a_target_that_is_open_elsewhere_is_left_alone_until_it_is_closed(follow: Following) -> None:
    new_turn(follow.source, 100)
    with opened_elsewhere(follow.target) as pid:
        done = follow()
        assert f"PID {pid}" in done.left_alone, done.left_alone
    assert follow() == SyncResult(added=3, edges=2, turns=1, nodes=NODES + 3)
    assert_same(follow.source, follow.target)


def test_a_source_that_was_replaced_by_a_copy_is_followed_on(follow: Following) -> None:
    """As `VACUUM INTO` and a rename leave it: another file, which lacks nothing."""
    for number in (100, 101):
        copy = follow.source.with_name("copy")
        shutil.copy(follow.source, copy)
        copy.replace(follow.source)
        new_turn(follow.source, number)
        done = follow()
        assert (done.left_alone, done.added) == ("", 3)
        follow()
    assert_same(follow.source, follow.target)
    assert len(follow.all(Moved)) == 2, "each is said once"


def test_a_source_that_was_replaced_by_another_memory_is_not_followed(follow: Following) -> None:
    copy = follow.source.with_name("copy")
    shutil.copy(follow.source, copy)
    change(copy, "UPDATE memory_nodes SET text = 'another ' || id, timestamp = 5 + id")
    copy.replace(follow.source)
    before = ask(follow.target, "MATCH (n:MemoryNode) RETURN n.id, n.text ORDER BY n.id")
    for _ in range(2):
        done = follow()
        assert "are other memories (memory_nodes id 1, memory_nodes id 2" in done.left_alone
        assert "--replace" in done.left_alone
    assert len(follow.all(LeftAlone)) == 1, "a reason is told once"
    assert ask(follow.target, "MATCH (n:MemoryNode) RETURN n.id, n.text ORDER BY n.id") == before


def test_a_column_that_came_is_taken(follow: Following) -> None:
    change(follow.source, "ALTER TABLE memory_nodes ADD COLUMN mood TEXT")
    change(follow.source, "UPDATE memory_nodes SET mood = 'calm' WHERE id = 7")
    new_turn(follow.source, 100)
    assert follow(thorough=True) == SyncResult(added=3, changed=1, edges=2, turns=1, nodes=NODES + 3)
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.mood IS NOT NULL RETURN n.id, n.mood") == [[7, "calm"]]
    change(follow.source, "UPDATE memory_nodes SET mood = 'glad' WHERE id = 7")
    assert follow(thorough=True) == SyncResult(changed=1, nodes=NODES + 3)
    assert ask(follow.target, "MATCH (n:MemoryNode {id: 7}) RETURN n.mood") == [["glad"]]


@pytest.mark.long
@pytest.mark.parametrize(
    ("own", "why"),
    [
        ("mood STRING", "the target's column is STRING, and SQLite's is INT64"),
        ("Mood INT64", "the target has a column Mood"),
    ],
)
def test_a_column_that_the_target_cannot_hold_is_left_out_by_name(follow: Following, own: str, why: str) -> None:
    with agent(follow.target) as connection:
        connection.execute(f"ALTER TABLE MemoryNode ADD {own}")
    change(follow.source, "ALTER TABLE memory_nodes ADD COLUMN mood INTEGER")
    change(follow.source, "UPDATE memory_nodes SET mood = 5, text = 'edited' WHERE id = 7")
    new_turn(follow.source, 100)
    assert follow(thorough=True) == SyncResult(added=3, changed=1, edges=2, turns=1, nodes=NODES + 3)
    (told,) = follow.all(ColumnsLeftOut)
    assert told.columns == (f"memory_nodes.mood ({why})",)  # type: ignore[attr-defined]
    new_turn(follow.source, 101)
    assert Following(follow.source)(thorough=True).added == 3, "another process knows it"


def test_the_first_embeddings_come_with_their_own_length(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, embedding=None) for key in range(1, 6)])
    change(source, "ALTER TABLE memory_nodes DROP COLUMN embedding")
    migrate(source, reader_python=Path("none"))
    follow = Following(source)
    change(source, "ALTER TABLE memory_nodes ADD COLUMN embedding BLOB")
    change(source, "UPDATE memory_nodes SET embedding = ?", vector(1, 2, 3, 4))
    assert follow(thorough=True) == SyncResult(changed=5, nodes=5)
    assert_same(source, follow.target)


def test_a_target_that_is_gone_is_not_made(follow: Following) -> None:
    follow.target.unlink()
    assert "there is no" in follow().left_alone
    assert not follow.target.exists()


def test_a_run_that_goes_on_is_waited_for(follow: Following) -> None:
    with locked(Files(follow.target)):
        assert "is already working on this target" in follow().left_alone


def test_a_reader_sees_whole_turns_meanwhile(follow: Following) -> None:
    seen: list[list[int]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                nodes, turns = (
                    ask(follow.target, f"MATCH (n:{t}) RETURN count(*)")[0][0] for t in ("MemoryNode", "Turn")
                )
            except RuntimeError as error:
                assert "lock" in str(error).lower(), error  # noqa: PT017
            else:
                seen.append([nodes, turns])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(100, 106):
            new_turn(follow.source, number)
            while follow().left_alone:
                pass
    finally:
        over.set()
        reader.join()
    assert_same(follow.source, follow.target)
    assert seen
    assert all(nodes % 3 == 0 for nodes, _ in seen)


# The end


def test_a_run_says_how_much_is_in_a_target_that_was_followed(follow: Following) -> None:
    new_turn(follow.source, 100)
    follow()
    done = migrate(follow.source, reader_python=Path("none"))
    assert done.only(NothingToDo).why == f"{follow.target} is complete: {NODES + 3} memories"


@pytest.mark.long
def test_what_is_in_quarantine_can_be_tried_again_on_a_target_that_was_followed(follow: Following) -> None:
    change(follow.source, "INSERT INTO memory_nodes (id, timestamp, text) VALUES (70, 'noon', 'x')")
    new_turn(follow.source, 100, first=80)
    follow()
    assert beside(follow.target, ".wal").exists(), "a log of our own is nobody's writing"
    change(follow.source, "UPDATE memory_nodes SET timestamp = 5 WHERE id = 70")
    run = migrate(follow.source, retry=True, reader_python=Path("none"))
    assert run.result.quarantined == 0
    assert_same(follow.source, follow.target)
    (backup,) = follow.target.parent.glob("graph.ladybug.backup-????????-??????")
    assert [row[0] for row in ask(backup, "MATCH (n:MemoryNode) WHERE n.id >= 80 RETURN n.id ORDER BY n.id")] == [
        80,
        81,
        82,
    ]
    new_turn(follow.source, 101)
    assert follow().added == 3
    assert_same(follow.source, follow.target)


@pytest.mark.long
def test_an_index_takes_in_the_log_that_late_arrivals_left(follow: Following, tmp_path: Path) -> None:
    new_turn(follow.source, 100)
    follow()
    asked = nimad.Settings(source=follow.source, reader_python=Path("none"), vector_extension=tmp_path / "none")
    with pytest.raises(EngineError, match="no vector index"):
        index(asked)
    assert not beside(follow.target, ".wal").exists()
    assert Following(follow.source)(thorough=True) == SyncResult(nodes=NODES + 3)
    assert_same(follow.source, follow.target)


@pytest.mark.long
def test_what_the_agent_wrote_to_a_followed_target_outlives_another_try(follow: Following) -> None:
    written_by_agent(follow.target, 555, [500, 501, 502])
    new_turn(follow.source, 100)
    follow()
    change(follow.source, "INSERT INTO memory_nodes (id, layer, embedding) VALUES (80, 'input', X'00')")
    follow()
    change(follow.source, "UPDATE memory_nodes SET embedding = NULL WHERE id = 80")
    migrate(follow.source, retry=True, reader_python=Path("none"))
    assert {500, 501, 502} <= set(flat(ask(follow.target, "MATCH (n:MemoryNode) RETURN n.id")))


@pytest.mark.long
def test_the_ledger_of_a_target_that_is_taken_away_goes_with_it(source: Path) -> None:
    target_of(source).unlink()
    run = migrate(source, reader_python=Path("none"))
    assert_same(source, run.target)
    assert Following(source)(thorough=True) == SyncResult(nodes=NODES)


# Run again


def test_the_same_command_again_brings_what_came_since(follow: Following) -> None:
    new_turn(follow.source, 100)
    change(follow.source, "UPDATE memory_nodes SET text = 'edited' WHERE id = 3")
    done = migrate(follow.source, reader_python=Path("none"))
    (arrived,) = done.all(Arrived)
    assert (arrived.added, arrived.changed, arrived.edges, arrived.turns) == (3, 1, 2, 1)
    assert done.only(NothingToDo) == NothingToDo(f"{follow.target} is complete: {NODES + 3} memories")
    assert_same(follow.source, follow.target)
    assert not beside(follow.target, ".wal").exists()


@pytest.mark.long
def test_the_same_command_again_says_why_late_ones_wait(follow: Following) -> None:
    new_turn(follow.source, 100)
    with opened_elsewhere(follow.target):
        why = migrate(follow.source, reader_python=Path("none")).only(NothingToDo).why
    assert "late arrivals wait" in why
    assert "is open in another program" in why


def test_a_complete_target_is_told_with_the_memories_that_the_agent_stored_in_it_alone(follow: Following) -> None:
    written_by_agent(follow.target, 100, [901, 902, 903])
    for _ in range(2):
        run = migrate(follow.source, reader_python=Path("none"))
        assert run.only(NothingToDo).why == f"{follow.target} is complete: {NODES + 3} memories"
