"""Quarantine: what has no place in the target is set aside whole, once, with its reason, and the run says so."""

import base64
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.memories import (
    assert_same,
    change,
    edge,
    make_memory,
    migrate,
    migrate_smoothly,
    node,
    quarantine_file,
    read_quarantine,
    read_target,
    turn,
    vector,
)

import nimad
from nimad.errors import ExitCode, StoppedError
from nimad.events.run import BatchLoaded, Event, Finished, Quarantined
from nimad.source.rows import Reject
from nimad.state import quarantine, quarantine_summary
from nimad.state.quarantine_summary import QuarantineSummary

NO_UTF8 = b"caf\xe9 \x00\xff"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.sqlite"


def spoil(path: Path, node_id: int, column: str, raw: bytes) -> None:
    """Store bytes as TEXT, as a program with a broken encoding does."""
    change(path, f"UPDATE memory_nodes SET {column} = CAST(? AS TEXT) WHERE id = ?", raw, node_id)


def listed(entries: Iterable[dict[str, Any]]) -> dict[tuple[str, Any, str], str]:
    """Table, id and part of each entry, with its reason; fails when an entry is there twice."""
    found: dict[tuple[str, Any, str], str] = {}
    for entry in entries:
        key = (entry["table"], entry["id"], entry["part"])
        assert key not in found, f"{key} is listed twice"
        found[key] = entry["reason"]
    return found


def stop_once(path: Path, when: Callable[[Event], bool], **settings: Any) -> None:
    """A run that is stopped at the first event of a kind: all that was counted is kept."""
    stop = threading.Event()

    def listen(event: Event) -> None:
        if when(event):
            stop.set()

    with pytest.raises(StoppedError):
        nimad.migrate(nimad.Settings(source=path, **settings), listen, stop)


def nodes_are_in(event: Event) -> bool:
    return isinstance(event, BatchLoaded) and event.table == "memory_nodes" and event.done == event.of


# Values


def test_a_value_that_cannot_be_represented_is_set_aside_and_its_row_migrates(path: Path) -> None:
    # `fe_score` without a type: a REAL column of SQLite would round the integer itself.
    columns = "id INTEGER PRIMARY KEY, timestamp INTEGER, text TEXT, who TEXT, fe_score, is_ghost INTEGER, extra BLOB"
    raw = b"\x00\x01\xff"
    nodes: list[dict[str, Any]] = [
        {"id": 1, "text": "sound", "timestamp": 1, "fe_score": 0.5, "is_ghost": 1, "extra": raw},
        {"id": 2, "text": "no time", "timestamp": "soon", "extra": raw},
        {"id": 3, "text": "half a ghost", "is_ghost": 2},
        {"id": 4, "text": "too exact", "fe_score": 2**53 + 1},
        {"id": 5, "text": "to be spoilt"},
        {"id": 6, "text": "two reasons", "timestamp": b"\x05", "is_ghost": "yes"},
        {"id": 7, "text": "no bytes", "extra": 5, "fe_score": float("inf")},
        {"id": 8, "text": "sound", "timestamp": "17", "is_ghost": "0", "fe_score": "0.25"},
        {"id": 9, "text": None},
    ]
    make_memory(path, schema=[f"CREATE TABLE memory_nodes ({columns})"], own_schema=True, nodes=nodes)
    spoil(path, 5, "text", NO_UTF8)
    run = migrate_smoothly(path)

    assert {(key, part): reason for (_, key, part), reason in listed(run.quarantine).items()} == {
        (2, "timestamp"): "timestamp: text of 4 characters where an integer belongs",
        (3, "is_ghost"): "is_ghost: an integer where 0 or 1 belongs",
        (4, "fe_score"): "fe_score: an integer that is not exact as a 64-bit float",
        (5, "text"): "text: text of 7 bytes, not valid UTF-8, migrated as text with U+FFFD",
        (6, "timestamp"): "timestamp: a BLOB of 1 bytes where an integer belongs",
        (6, "is_ghost"): "is_ghost: text of 3 characters where 0 or 1 belongs",
        (7, "extra"): "extra: an integer where bytes belong",
    }
    assert len(run.quarantine) == 7

    lines = {(entry["id"], entry["part"]): entry for entry in run.quarantine}
    assert set(lines[2, "timestamp"]) == {"table", "id", "part", "reason", "attempts", "engine", "row"}
    assert lines[2, "timestamp"]["table"] == "memory_nodes"
    assert lines[2, "timestamp"]["row"] == {
        "id": 2,
        "timestamp": "soon",
        "text": "no time",
        "who": None,
        "fe_score": None,
        "is_ghost": None,
        "extra": {"base64": base64.b64encode(raw).decode()},
    }
    assert lines[4, "fe_score"]["row"]["fe_score"] == 2**53 + 1
    assert lines[5, "text"]["row"]["text"] == {"text_base64": base64.b64encode(NO_UTF8).decode()}
    assert lines[7, "extra"]["row"]["fe_score"] == {"float": "inf"}

    target = read_target(run.target)
    assert sorted(target.nodes) == list(range(1, 10))
    assert (target.nodes[8]["timestamp"], target.nodes[8]["is_ghost"], target.nodes[8]["fe_score"]) == (17, False, 0.25)
    assert (target.nodes[2]["timestamp"], target.nodes[2]["extra"], target.nodes[3]["is_ghost"]) == (None, raw, False)
    assert (target.nodes[5]["text"], target.nodes[7]["extra"]) == (NO_UTF8.decode(errors="replace"), None)

    assert (run.result.migrated, run.result.quarantined, run.result.quarantined_parts) == (9, 0, 7)
    assert (run.result.success_rate, run.result.exit_code) == (100, ExitCode.QUARANTINED)
    said = run.only(Quarantined)
    assert (said.file, said.rows, said.parts) == (str(quarantine_file(run.target)), 0, 7)
    first = "memory_nodes id 2 (timestamp): timestamp: text of 4 characters where an integer belongs"
    assert said.examples[0] == first
    assert run.only(Finished).result == run.result


def test_without_anything_in_quarantine_there_is_no_file_and_no_word_of_it(path: Path) -> None:
    make_memory(path, "1.0", nodes=[node(1)])
    run = migrate_smoothly(path)
    assert not quarantine_file(run.target).exists()
    assert run.all(Quarantined) == []
    assert run.result.exit_code == ExitCode.COMPLETE


# Embeddings


def test_an_embedding_unlike_the_others_is_set_aside_alone(path: Path) -> None:
    common = vector(0.25, -0.5, 1)
    odd: dict[int, Any] = {
        4: vector(1, 2),  # another model's
        5: vector(1, 2, 3, 4),
        6: common[:-1],  # cut off in the middle of a float
        7: b"",
        8: "[0.25, -0.5]",
        9: 7,
    }
    embeddings = {1: common, 2: common, 3: None, **odd}
    make_memory(path, "2.2", nodes=[node(key, embedding=value) for key, value in embeddings.items()])
    run = migrate_smoothly(path)

    assert listed(run.quarantine) == {
        ("memory_nodes", 4, "embedding"): "embedding: an embedding of 2 floats, not 3",
        ("memory_nodes", 5, "embedding"): "embedding: an embedding of 4 floats, not 3",
        ("memory_nodes", 6, "embedding"): "embedding: an embedding of 11 bytes, no multiple of 4",
        ("memory_nodes", 7, "embedding"): "embedding: an embedding of 0 floats, not 3",
        ("memory_nodes", 8, "embedding"): "embedding: an embedding of 2 floats, not 3",
        ("memory_nodes", 9, "embedding"): "embedding: an integer where an embedding's bytes belong",
    }
    lines = {entry["id"]: entry["row"] for entry in run.quarantine}
    assert base64.b64decode(lines[4]["embedding"]["base64"]) == odd[4]
    assert (lines[8]["embedding"], lines[9]["embedding"]) == (odd[8], 7)

    target = read_target(run.target)
    assert sorted(target.nodes) == sorted(embeddings)
    assert {key: row["embedding"] for key, row in target.nodes.items()} == {1: common, 2: common} | dict.fromkeys(
        range(3, 10)
    )
    assert target.nodes[6]["text"] == "memory 6"
    assert target.types["MemoryNode"]["embedding"] == "FLOAT[3]"
    assert (run.result.migrated, run.result.quarantined, run.result.quarantined_parts) == (9, 0, 6)
    assert (run.result.exit_code, run.only(Quarantined).rows, run.only(Quarantined).parts) == (1, 0, 6)


def test_the_commonest_dimension_wins_and_of_two_the_larger(path: Path) -> None:
    sizes = [8, 2, 2, 8, 16]
    make_memory(path, "2.2", nodes=[node(key, embedding=bytes(4 * size)) for key, size in enumerate(sizes)])
    run = migrate_smoothly(path)
    assert read_target(run.target).types["MemoryNode"]["embedding"] == "FLOAT[8]"
    assert [entry["id"] for entry in run.quarantine] == [1, 2, 4]


def test_an_embedding_set_aside_is_listed_though_another_row_has_the_same_id(path: Path) -> None:
    good, odd = struct.pack("<2f", 1, 2), struct.pack("<3f", 1, 2, 3)
    schema = ["CREATE TABLE memory_nodes (id INTEGER, text TEXT, embedding BLOB)"]
    rows = [(1, "sound", good), (2, "first", odd), (2, "second", good), (3, "sound", good)]
    nodes = [{"id": key, "text": text, "embedding": embedding} for key, text, embedding in rows]
    make_memory(path, schema=schema, own_schema=True, nodes=nodes)
    run = migrate_smoothly(path)
    assert {(entry["id"], entry["part"]): entry["row"]["text"] for entry in run.quarantine} == {
        (2, "embedding"): "first",
        (2, "row"): "second",
    }


# Edges and links


def test_edges_and_links_to_nowhere_are_listed_with_their_ids(path: Path) -> None:
    edges = [edge(1, 1, 2), edge(2, 1, 99), edge(3, 98, 99), edge(4, None, 1), edge(5, 3, 1), edge(6, "one", 1)]
    turns = [turn(1, 1, 99, 2), turn(2, 3, None, 98), turn(3), turn(4, 1, "two", 2), turn(5, 2)]
    make_memory(path, "3.0", nodes=[node(1), node(2)], edges=edges, turns=turns)
    run = migrate_smoothly(path)

    nowhere = "is no node of the target: missing in memory_nodes, in quarantine, or newer than this run"
    assert listed(run.quarantine) == {
        ("memory_edges", 2, "row"): f"target_id 99 {nowhere}",
        ("memory_edges", 3, "row"): f"source_id 98 {nowhere}; target_id 99 {nowhere}",
        ("memory_edges", 4, "row"): "source_id is NULL",
        ("memory_edges", 5, "row"): f"source_id 3 {nowhere}",
        ("memory_edges", 6, "row"): "source_id: text of 3 characters where an integer belongs",
        ("memory_turns", 1, "has_contemplation"): f"contemplation_node_id 99 {nowhere}",
        ("memory_turns", 2, "has_input"): f"input_node_id 3 {nowhere}",
        ("memory_turns", 2, "has_output"): f"output_node_id 98 {nowhere}",
        ("memory_turns", 4, "has_contemplation"): (
            "contemplation_node_id: text of 3 characters where an integer belongs"
        ),
    }
    by_id = {(entry["table"], entry["id"]): entry["row"] for entry in run.quarantine}
    assert by_id["memory_edges", 2].items() >= {"source_id": 1, "target_id": 99, "relation": "triggered"}.items()

    target = read_target(run.target)
    assert (sorted(target.nodes), sorted(target.edges), sorted(target.turns)) == ([1, 2], [1], [1, 2, 3, 4, 5])
    assert target.links == {
        "has_input": [(1, 1), (4, 1), (5, 2)],
        "has_contemplation": [],
        "has_output": [(1, 2), (4, 2)],
    }

    result = run.result
    assert (result.migrated, result.edges, result.turns) == (2, 1, 5)
    assert (result.quarantined, result.quarantined_parts, result.exit_code) == (5, 4, 1)
    said = run.only(Quarantined)
    assert (said.rows, said.parts) == (5, 4)
    assert len(said.examples) == 5
    assert set(said.examples) < {
        f"{t} id {key} ({part}): {why}" for (t, key, part), why in listed(run.quarantine).items()
    }
    assert f"memory_edges id 2 (row): target_id 99 {nowhere}" in said.examples


# Strict


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"nodes": [node(1), node(2, timestamp="soon"), node(3)]}, "memory_nodes id 2: timestamp: text of 4"),
        ({"nodes": [node(1)], "edges": [edge(7, 1, 99)]}, "memory_edges id 7: target_id 99"),
    ],
)
def test_strict_stops_at_the_first_such_row_and_publishes_nothing(path: Path, bad: Any, named: str) -> None:
    make_memory(path, "1.0", **bad)
    events: list[Event] = []
    with pytest.raises(StoppedError, match=named) as stopped:
        migrate(path, strict=True, events=events)
    assert stopped.value.exit_code == ExitCode.INTERRUPTED
    assert "without --strict" in str(stopped.value)
    target = path.with_name("graph.ladybug")
    assert not target.exists()
    assert not quarantine_file(target).exists()
    assert not any(isinstance(event, Quarantined) for event in events)


# Going on, and running again


@pytest.mark.long
def test_an_entry_stands_there_once_however_often_the_run_is_interrupted_and_begun(path: Path) -> None:
    nodes = [node(1), node(2), node(7, timestamp="soon"), node(8, embedding=bytes(3))]
    edges = [edge(1, 1, 2), edge(2, 9, 1), edge(3, 1, 99)]
    make_memory(path, "2.2", nodes=nodes, edges=edges, turns=[turn(1, 9, None, 8)])
    expected = {
        ("memory_nodes", 7, "timestamp"),
        ("memory_nodes", 8, "embedding"),
        ("memory_edges", 2, "row"),
        ("memory_edges", 3, "row"),
        ("memory_turns", 1, "has_input"),
    }
    stop_once(path, nodes_are_in)
    unfinished = path.with_name("graph.ladybug.migrating")
    assert set(listed(read_quarantine(unfinished))) == expected
    torn = quarantine_file(unfinished)
    torn.write_bytes(torn.read_bytes()[:-20])  # a power cut tore the last line
    run = migrate_smoothly(path)
    file = quarantine_file(run.target)
    assert set(listed(run.quarantine)) == expected
    assert (run.result.quarantined, run.result.quarantined_parts) == (2, 3)

    text = file.read_bytes()
    again = migrate_smoothly(path)
    assert again.result.outcome == "already complete"
    assert file.read_bytes() == text


@pytest.mark.long
def test_rows_mended_or_deleted_before_the_run_goes_on_leave_no_line_behind(path: Path) -> None:
    nodes = [node(1), node(2, timestamp="soon"), node(3, timestamp="soon"), node(4, embedding=bytes(3))]
    make_memory(path, "2.2", nodes=nodes, edges=[edge(1, 2, 1), edge(2, 1, 99)])
    stop_once(path, nodes_are_in)
    change(path, "UPDATE memory_nodes SET timestamp = 5 WHERE id = 2")
    change(path, "DELETE FROM memory_nodes WHERE id = 3")
    change(path, "UPDATE memory_nodes SET embedding = ? WHERE id = 4", bytes(4 * 512))
    change(path, "UPDATE memory_edges SET target_id = 4 WHERE id = 2")
    run = migrate_smoothly(path)

    target = assert_same(path, run.target)
    assert (sorted(target.nodes), sorted(target.edges), target.nodes[2]["timestamp"]) == ([1, 2, 4], [1, 2], 5)
    assert not quarantine_file(run.target).exists()
    assert (run.all(Quarantined), run.result.exit_code) == ([], 0)


@pytest.mark.long
def test_a_turn_is_tied_to_its_node_when_that_was_mended_before_the_run_goes_on(path: Path) -> None:
    make_memory(path, "2.2", nodes=[node(1), node(3)], turns=[turn(1, 2, None, 1)])
    stop_once(path, nodes_are_in)
    change(path, "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (2, 5, 'input', 'restored')")
    run = migrate_smoothly(path)
    assert assert_same(path, run.target).links["has_input"] == [(1, 2)]
    assert not quarantine_file(run.target).exists()


@pytest.mark.long
def test_a_row_that_is_wrong_in_another_way_by_then_is_listed_as_it_is_now(path: Path) -> None:
    make_memory(path, "2.2", nodes=[node(1), node(2, timestamp="soon"), node(3, timestamp="never")])
    stop_once(path, nodes_are_in)
    change(path, "UPDATE memory_nodes SET timestamp = 5, is_ghost = 2 WHERE id = 2")
    run = migrate_smoothly(path)

    lines = {entry["id"]: entry for entry in run.quarantine}
    assert lines[2]["reason"] == "is_ghost: an integer where 0 or 1 belongs"
    assert lines[2]["row"]["timestamp"] == 5
    assert lines[3]["reason"] == "timestamp: text of 5 characters where an integer belongs"


def test_every_row_of_the_source_is_either_in_the_target_or_in_the_file(path: Path) -> None:
    bad: list[dict[str, Any]] = [{"timestamp": "x"}, {"fe_score": "y"}, {"is_ghost": 3}, {"who": b"\xff"}]
    nodes = [node(key, **(bad[key % 4] if key % 7 == 0 else {})) for key in range(200)]
    edges = [edge(key, key, key * 5 % 230) for key in range(200)]
    turns = [turn(key, key, None, key * 3 % 250, affect_json=b"\xff" if key % 50 == 0 else None) for key in range(100)]
    make_memory(path, "3.0", nodes=nodes, edges=edges, turns=turns)
    run = migrate_smoothly(path, batch_size=30)

    with closing(sqlite3.connect(path)) as connection:
        here = {
            table: {key for (key,) in connection.execute(f"SELECT id FROM {table}")}
            for table in ("memory_nodes", "memory_edges", "memory_turns")
        }
    target = read_target(run.target)
    there = {"memory_nodes": target.nodes, "memory_edges": target.edges, "memory_turns": target.turns}
    for table, keys in here.items():
        aside = {entry["id"] for entry in run.quarantine if (entry["table"], entry["part"]) == (table, "row")}
        assert keys == aside | set(there[table])
        assert not aside & set(there[table])
    odd = {("memory_nodes", key) for key in range(200) if key % 7 == 0} | {("memory_turns", 0), ("memory_turns", 50)}
    columns = ("timestamp", "fe_score", "is_ghost", "who", "affect_json")
    assert odd == {(entry["table"], entry["id"]) for entry in run.quarantine if entry["part"] in columns}
    assert set(target.edges) == {key for key in range(200) if key * 5 % 230 < 200}
    assert run.only(Quarantined).rows == run.result.quarantined == 200 - len(target.edges)


def test_memories_beyond_the_lines_that_are_read_count_as_set_aside_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or so many of them would be fewer than --max-set-aside allows."""
    rejects = [Reject("memory_nodes", key, "row", "another row has the same id", {"text": "x"}) for key in range(-1, 5)]
    rejects += [Reject("memory_edges", 7, "row", "no node", {}), Reject("memory_nodes", 8, "timestamp", "a text", {})]
    file = tmp_path / "quarantine.jsonl"
    quarantine.add(file, rejects)
    read = QuarantineSummary.of(file)
    monkeypatch.setattr(quarantine_summary, "READ", 2)
    counted = QuarantineSummary.of(file)
    assert (counted.rows, counted.parts, counted.nodes) == (read.rows, read.parts, read.nodes) == (7, 1, 6)
