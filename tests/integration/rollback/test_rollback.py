"""`nimad rollback`: back to SQLite, with everything that the agent wrote to the target, whatever happens in between."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.commands import GOLDEN, Ran, nimad
from support.following import LAYERS, Following, agent, ask, new_turn, written_by_agent
from support.memories import (
    LINKS,
    Memory,
    change,
    edge,
    make_memory,
    migrate,
    node,
    read_source,
    read_target,
    same_value,
    turn,
    vector,
)
from support.torture import beside, opened, target_of
from test_bad_input import everything_in, restricted

import nimad as program
from nimad.compare.comparison import compare
from nimad.config import Settings
from nimad.errors import (
    ExitCode,
    LockedError,
    NimadError,
    RefusedError,
    SourceDamagedError,
    StoppedError,
    UsageError,
)
from nimad.events.run import Event, Paused
from nimad.rollback import rollback
from nimad.rollback.backup import back_up
from nimad.rollback.record import value_of
from nimad.rollback.rollback import Rollback
from nimad.rollback.writer import MemoryWriter as Writable
from nimad.source.rows import json_row
from nimad.source.schema import FILLED_COLUMNS, NODE_DEFAULTS
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import read_schema
from nimad.state.paths import Files, locked

__all__ = ["restricted"]


def settings(source: Path) -> Settings:
    return Settings(source=source, reader_python=Path("none"))


def look(source: Path) -> Rollback:
    return rollback.plan_rollback(settings(source))


def apply(source: Path) -> Rollback:
    return rollback.apply_rollback(settings(source))


def counts(found: Mapping[str, Any]) -> dict[str, int]:
    return {table: listed.count for table, listed in found.items()}


def saying(memory: Memory) -> tuple[Any, ...]:
    """What nodes, edges and turns say, whatever their ids are."""
    name = {key: (row["turn_id"], row["layer"], row["text"]) for key, row in memory.nodes.items()}
    turns = {key: row["turn_id"] for key, row in memory.turns.items()}
    return (
        sorted(name.values(), key=repr),
        sorted((name[row["source_id"]], name[row["target_id"]], row["relation"]) for row in memory.edges.values()),
        {kind: sorted((turns[a], name[b]) for a, b in pairs) for kind, pairs in memory.links.items()},
    )


def said_there(target: Path) -> tuple[Any, ...]:
    """`saying`, of a target whose edges need no key."""
    memory = Memory(
        {
            key: {"turn_id": turn, "layer": layer, "text": text}
            for key, turn, layer, text in ask(target, "MATCH (n:MemoryNode) RETURN n.id, n.turn_id, n.layer, n.text")
        }
    )
    drawn = ask(target, "MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) RETURN a.id, b.id, r.relation")
    memory.edges = {
        number: {"source_id": start, "target_id": end, "relation": relation}
        for number, (start, end, relation) in enumerate(drawn)
    }
    memory.turns = {key: {"turn_id": name} for key, name in ask(target, "MATCH (n:Turn) RETURN n.id, n.turn_id")}
    memory.links = {
        kind: [(a, b) for a, b in ask(target, f"MATCH (t:Turn)-[:{kind}]->(n:MemoryNode) RETURN t.id, n.id")]
        for kind in LINKS.values()
    }
    return saying(memory)


def lived_on(source: Path) -> tuple[Any, ...]:
    """The agent goes on with the target, whose ids SQLite gives out as well; what all of it says then."""
    written_by_agent(target_of(source), 200, [61, 62, 63])
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 5}) SET n.strength = 0.75, n.last_accessed = 99999")
        connection.execute("MATCH (n:MemoryNode {id: 6}) SET n.summary = 'in short'")
        connection.execute(
            "MATCH (a:MemoryNode {id: 63}), (b:MemoryNode {id: 3}) "
            "CREATE (a)-[:relates_to {relation: 'reminds_of', weight: 0.25}]->(b)"
        )
    there = said_there(target_of(source))
    new_turn(source, 100)
    here = saying(read_source(source))
    nodes = sorted({*here[0], *there[0]}, key=repr)
    links = {kind: sorted({*here[2][kind], *there[2][kind]}) for kind in here[2]}
    return nodes, sorted({*here[1], *there[1]}), links


def everything_but(folder: Path, *names: str) -> dict[str, Any]:
    return {name: data for name, data in everything_in(folder).items() if not any(word in str(name) for word in names)}


# What is shown before anything is done


def test_where_sqlite_has_everything_nothing_is_written_to_it(source: Path) -> None:
    new_turn(source, 100)
    before = source.read_bytes()
    assert not look(source).writes
    done = apply(source)
    assert (done.sqlite_backup, done.record, source.read_bytes()) == (None, None, before)
    assert done.set_aside is not None
    assert done.set_aside.exists()


# What is copied back


def test_a_rollback_loses_no_memory_of_either_side(source: Path) -> None:
    expected = lived_on(source)
    done = apply(source)
    now = read_source(source)
    assert saying(now) == expected
    assert (now.nodes[5]["strength"], now.nodes[5]["last_accessed"], now.nodes[6]["summary"]) == (
        0.75,
        99999,
        "in short",
    )
    assert done.renamed == 3, "ids that SQLite gave out meanwhile are not taken from their memories"
    assert done.sqlite_backup is not None
    assert read_source(done.sqlite_backup).nodes.keys() == set(range(1, 64))
    assert done.sqlite_backup.stat().st_mode & 0o777 == 0o600
    assert done.set_aside is not None
    done.set_aside.rename(target_of(source))
    assert not look(source).writes, "a second one would find nothing"


@pytest.mark.long
def test_the_target_is_set_aside_and_no_run_makes_a_new_one_by_itself(source: Path) -> None:
    target = target_of(source)
    assert target.with_name("ladybug.lbug").is_symlink()
    beside(target, ".conflicts.jsonl").write_text("{}\n")
    written_by_agent(target, 200, [61, 62, 63])
    held = said_there(target)
    done = apply(source)
    assert not target.exists()
    assert not os.path.lexists(target.with_name("ladybug.lbug"))
    assert done.set_aside is not None
    assert said_there(done.set_aside) == held
    assert beside(done.set_aside, ".ledger").exists()
    assert beside(done.set_aside, ".conflicts.jsonl").exists()
    assert not beside(target, ".conflicts.jsonl").exists()

    heard: list[Event] = []
    stop = threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Paused):
            stop.set()

    with pytest.raises(StoppedError):
        program.migrate(settings(source), listen, stop)
    assert not target.exists()
    assert not beside(target, ".migrating").exists()

    assert nimad(source.parent, "resume", "--source", source).code == 0
    again = migrate(source, reader_python=Path("none"))
    assert len(read_target(again.target).nodes) == 63
    assert target.with_name("ladybug.lbug").is_symlink(), "the next target has the further names again"


@pytest.mark.long
def test_of_a_recall_the_later_one_counts_and_of_other_values_sqlites(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 9}) SET n.who = 'Ada', n.summary = 'of the target'")
        connection.execute("MATCH (n:MemoryNode {id: 8}) SET n.strength = 0.125, n.last_accessed = 5000")
    change(source, "UPDATE memory_nodes SET summary = 'of SQLite' WHERE id = 9")
    change(source, "UPDATE memory_nodes SET strength = 0.25, last_accessed = 88888 WHERE id = 8")
    done = apply(source)
    rows = read_source(source).nodes
    assert (rows[8]["strength"], rows[8]["last_accessed"]) == (0.25, 88888)
    assert (rows[9]["summary"], rows[9]["who"], done.exit_code) == ("of SQLite", "Ada", ExitCode.QUARANTINED)
    assert done.record is not None
    assert '"summary": "of the target"' in done.record.read_text(), "what both sides changed is kept"


def two_texts(source: Path) -> list[Any]:
    """A turn that both sides have, with other values on each, and what SQLite says of it."""
    text = "word " * 600
    (key, *_) = new_turn(source, 100, text=text, who="owner", affect_json='{"a": 1}')
    written_by_agent(target_of(source), 100, [91, 92, 93])
    with agent(target_of(source)) as connection:
        connection.execute(
            "MATCH (n:MemoryNode {id: 91}) SET n.text = $text, n.who = 'user', n.affect_json = '{}'",
            {"text": text[:1999] + "\ufffd"},
        )
    return [key, text, "owner", '{"a": 1}']


@pytest.mark.sampled
@pytest.mark.parametrize("runs", [(), ({},), ({}, {"replace": True}), ({"replace": True},), ({}, {})], ids=str)
def test_a_value_of_the_target_that_was_never_copied_is_not_taken_for_a_newer_one(
    source: Path, runs: tuple[dict[str, Any], ...]
) -> None:
    key, *values = two_texts(source)
    for number, options in enumerate(runs):
        migrate(source, reader_python=Path("none"), **options)
        change(source, f"UPDATE memory_nodes SET session_key = 's{number}' WHERE id = {key}")
    texts = ask(target_of(source), "MATCH (n:MemoryNode {turn_id: 'turn_100', layer: 'input'}) RETURN n.who")
    done = apply(source)
    row = read_source(source).nodes[key]
    assert [row["text"], row["who"], row["affect_json"]] == values
    assert (texts, done.exit_code) == ([["user"]], ExitCode.QUARANTINED)
    assert done.record is not None
    kept = [json.loads(line) for line in done.record.read_text().splitlines()]
    assert "user" in [line["row"].get("who") for line in kept if line["what"] == "keep" and line["id"] == key]


@pytest.mark.long
def test_what_both_sides_changed_stays_sqlites_also_after_the_target_was_followed(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 9}) SET n.who = 'Ada', n.summary = 'of the target'")
    change(source, "UPDATE memory_nodes SET summary = 'of SQLite' WHERE id = 9")
    Following(source)(thorough=True)
    assert ask(target_of(source), "MATCH (n:MemoryNode {id: 9}) RETURN n.summary") == [["of the target"]]
    done = apply(source)
    row = read_source(source).nodes[9]
    assert (row["summary"], row["who"], done.exit_code) == ("of SQLite", "Ada", ExitCode.QUARANTINED)


def test_what_sqlite_has_no_column_or_table_for_is_kept_whole(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 9}) SET n.emotions = 'joy'")
        connection.execute("CREATE (:MemoryNode {id: 61, turn_id: 'mine', layer: 'input', model: 'm1', timestamp: 5})")
        connection.execute("CREATE NODE TABLE Nightmare(id STRING PRIMARY KEY, narrative STRING)")
        connection.execute("CREATE (:Nightmare {id: 'd1', narrative: 'sheep'})")
        connection.execute("CREATE NODE TABLE _notes(id STRING PRIMARY KEY, note STRING)")
        connection.execute("CREATE (:_notes {id: 'n1', note: 'of the agent'})")
    done = apply(source)
    assert done.record is not None
    lines = [json.loads(line) for line in done.record.read_text().splitlines()]
    kept = [line for line in lines if line.get("kept")]
    assert {"emotions": "joy"} in [line["row"] for line in kept]
    assert {"model": "m1"} in [line.get("beyond") for line in kept]
    assert "sheep" in [line["row"].get("narrative") for line in kept]
    assert "of the agent" in [line["row"].get("note") for line in kept]
    assert read_source(source).nodes[61]["turn_id"] == "mine"


def test_a_row_that_sqlite_does_not_take_stops_nothing_and_is_kept(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", "2.2", nodes=[node(1, turn_id="t1")], turns=[turn(1, 1)])
    migrate(source, reader_python=Path("none"))
    with agent(target_of(source)) as connection:
        for key, layer in ((2, "daydream"), (3, "output")):
            connection.execute(
                f"CREATE (:MemoryNode {{id: {key}, layer: '{layer}', turn_id: 't2', text: 'x', timestamp: 9}})"
            )
        connection.execute(
            "MATCH (a:MemoryNode {id: 1}), (b:MemoryNode {id: 2}) CREATE (a)-[:relates_to {relation: 'r'}]->(b)"
        )
    done = apply(source)
    assert done.exit_code == ExitCode.QUARANTINED
    assert sorted(table for table, _, _ in done.refused) == ["memory_edges", "memory_nodes"]
    assert read_source(source).nodes.keys() == {1, 3}
    assert done.record is not None
    assert '"layer": "daydream"' in done.record.read_text()


def test_an_id_that_dangling_rows_of_sqlite_name_is_not_given_to_another_memory(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)], edges=[edge(1, 1, 2)], turns=[turn(1, 7)])
    file, record = SourceFile(source), tmp_path / "record.jsonl"
    row = {"layer": "input", "text": "x"}
    lines = [{"what": "add", "table": "memory_nodes", "id": key, "row": row} for key in (2, 3, 7, 1)]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    schema = file.read(lambda c: read_schema(c, file, nodes_only=False))
    with closing(Writable(source, schema)) as memory, memory.transaction():
        written = memory.write(record)
    assert written.ids["memory_nodes"] == {3: 3, 2: 8, 7: 9, 1: 10}
    assert read_source(source).nodes.keys() == {1, 3, 8, 9, 10}


@pytest.mark.long
def test_a_memory_gets_a_new_id_although_another_one_has_the_highest_of_all(tmp_path: Path) -> None:
    highest = 2**63 - 1
    nodes = [node(key) for key in (1, 2, highest)]
    edges = [edge(highest, 1, highest)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes, edges=edges, turns=[turn(highest)])
    migrate(source)
    with agent(target_of(source)) as connection:
        connection.execute("CREATE (n:MemoryNode {id: -5, layer: 'semantic', text: 'of mine', turn_id: 'mine'})")
        connection.execute("CREATE (t:Turn {id: -5, turn_id: 'mine'})")
        connection.execute(
            "MATCH (a:MemoryNode {id: -5}), (b:MemoryNode {id: 2}) CREATE (a)-[:relates_to {relation: 'mine'}]->(b)"
        )
    assert apply(source).renamed == 2
    after = read_source(source)
    assert (after.nodes[3]["text"], after.edges[1]["source_id"], after.turns[1]["turn_id"]) == ("of mine", 3, "mine")


def test_ids_that_are_moments_make_no_later_id_of_sqlites_high(tmp_path: Path) -> None:
    """nima-core gives a turn the millisecond as its id; SQLite goes on counting from its highest."""
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)], edges=[edge(1, 1, 2)], turns=[turn(4)])
    change(source, "DELETE FROM memory_nodes WHERE id = 2")
    migrate(source, reader_python=Path("none"))
    moment = 1_795_996_800_000
    with agent(target_of(source)) as connection:
        for key in (3, 4, moment):
            connection.execute(f"CREATE (:MemoryNode {{id: {key}, layer: 'input', turn_id: 'm{key}', text: 'own'}})")
            connection.execute(f"CREATE (:Turn {{id: {moment + key}, turn_id: 'm{key}', timestamp: {moment}}})")
        connection.execute(
            f"MATCH (t:Turn {{id: {moment + 4}}}), (n:MemoryNode {{id: {moment}}}) CREATE (t)-[:has_input]->(n)"
        )
    apply(source)
    after = read_source(source)
    assert after.nodes.keys() == {1, 3, 4, 5}
    assert after.nodes[5]["turn_id"] == f"m{moment}"
    assert after.turns.keys() == {4, 5, 6, 7}
    assert [row["input_node_id"] for row in after.turns.values() if row["turn_id"] == "m4"] == [5]
    change(source, "INSERT INTO memory_turns (turn_id) VALUES ('next')")
    assert max(read_source(source).turns) == 8


def test_the_agents_own_search_finds_what_was_copied_back(source: Path) -> None:
    change(
        source, "CREATE VIRTUAL TABLE memory_fts USING fts5 (text, summary, content='memory_nodes', content_rowid='id')"
    )
    change(source, "INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")
    with agent(target_of(source)) as connection:
        connection.execute(
            "CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: 'm', text: 'telescope', timestamp: 9})"
        )
        connection.execute("MATCH (n:MemoryNode {id: 9}) SET n.text = 'a microscope'")
    apply(source)
    with closing(sqlite3.connect(source)) as connection:
        found = [
            connection.execute("SELECT rowid FROM memory_fts WHERE memory_fts MATCH ?", (word,)).fetchall()
            for word in ("telescope", "microscope", '"memory 9"')
        ]
        connection.execute("INSERT INTO memory_fts (memory_fts) VALUES ('integrity-check')")
    assert found == [[(61,)], [(9,)], []]


def test_a_disk_that_is_full_leaves_sqlite_as_it_was_and_is_named_as_that(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 10)])
    change(source, "CREATE VIRTUAL TABLE memory_fts USING fts5 (text, content='memory_nodes', content_rowid='id')")
    change(source, "INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")
    file = SourceFile(source)
    schema = file.read(lambda connection: read_schema(connection, file, nodes_only=False))
    before, record = read_source(source), tmp_path / "record.jsonl"
    random = Random(1)
    texts = {key: " ".join(f"{random.getrandbits(128):x}" for _ in range(120)) for key in before.nodes}
    record.write_text(
        "".join(
            json.dumps({"what": "change", "table": "memory_nodes", "key": key, "row": {"text": text}}) + "\n"
            for key, text in texts.items()
        )
    )
    for room in (0, 10, 20):  # pages: none for a text, for some, and for all but their index
        with closing(Writable(source, schema)) as memory:
            (pages,) = memory.connection.execute("PRAGMA page_count").fetchone()
            memory.connection.execute(f"PRAGMA max_page_count = {pages + room}")
            with pytest.raises(sqlite3.OperationalError, match="full"), memory.transaction():
                memory.write(record)
        assert read_source(source) == before


def test_what_has_neither_turn_nor_text_is_not_doubled_either(source: Path) -> None:
    """Nothing but ends, a moment or a summary tells these apart, and their ids are other rows' in SQLite."""
    with agent(target_of(source)) as connection:
        for key in (61, 62):
            connection.execute(f"CREATE (:MemoryNode {{id: {key}, layer: 'input', summary: 'bare {key}'}})")
        connection.execute("MATCH (a:MemoryNode {id: 61}), (b:MemoryNode {id: 62}) CREATE (a)-[:relates_to]->(b)")
        connection.execute("MATCH ()-[r:relates_to]->() WHERE r.relation IS NULL SET r.edge_id = 59")
        connection.execute("MATCH (t:Turn {id: 4}), (n:MemoryNode {id: 61}) CREATE (t)-[:has_output]->(n)")
    new_turn(source, 100)
    first = apply(source)
    assert counts(first.added) == {"memory_nodes": 2, "memory_edges": 1}
    assert first.set_aside is not None
    first.set_aside.rename(target_of(source))
    assert not look(source).writes
    assert read_source(source).turns[4]["output_node_id"] == 12, "a column has room for one link, and SQLite's stays"
    assert first.record is not None
    assert "more than one link" in first.record.read_text()


def test_what_a_run_was_to_leave_out_is_carried_back_all_the_same(source: Path) -> None:
    target = target_of(source)
    target.unlink()
    migrate(source, reader_python=Path("none"), nodes_only=True, replace=True)
    written_by_agent(target, 200, [61, 62, 63])
    assert counts(look(source).added) == {"memory_nodes": 3, "memory_edges": 2, "memory_turns": 1}
    assert compare(settings(source)).exit_code == ExitCode.QUARANTINED


# Values there and back


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.binary(max_size=24),
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_a_record_holds_every_value_exactly(row: dict[str, Any]) -> None:
    data = json.loads(json.dumps(json_row(row)))
    assert all(same_value(value_of(data[name]), value) for name, value in row.items())


ROWS = st.fixed_dictionaries(
    {
        "timestamp": st.integers(-(2**63), 2**63 - 1),
        "text": st.none() | st.text(st.characters(codec="utf-8"), max_size=30),
        "fe_score": st.none() | st.floats(allow_nan=False),
        "embedding": st.none()
        | st.binary(min_size=16, max_size=16).filter(lambda b: b"\x7f" not in b and b"\xff" not in b),
        "is_ghost": st.sampled_from((None, 0, 1)),
        "dismissal_count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "created_at": st.none() | st.text("0123456789-: ", max_size=19),
    }
)


@pytest.mark.long
@given(st.lists(ROWS, min_size=20, max_size=60))
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_rows_that_go_to_the_target_and_back_are_what_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    there_and_back(tmp_path_factory.mktemp("values"), rows)


def test_values_at_their_ends_go_to_the_target_and_back(tmp_path: Path) -> None:
    ends = (-(2**63), 2**63 - 1)
    rows: list[dict[str, Any]] = [
        {"timestamp": number, "text": text, "fe_score": score, "embedding": bits, "is_ghost": ghost}
        for number, text, score, bits, ghost in (
            (ends[0], "", float("inf"), bytes(16), 0),
            (ends[1], 'NUL \0, 🔭 and {"a": 0.5}', -0.0, vector(-0.0, 1e-45, 3.4e38, 0.1), 1),
            (0, None, 5e-324, None, None),
        )
    ]
    there_and_back(tmp_path, [*rows, {"timestamp": 5, "created_at": None, "dismissal_count": ends[1]}])


def there_and_back(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Migrate rows, delete them in SQLite, and have them copied back."""
    nodes = [node(key, turn_id=f"t{key}", **row) for key, row in enumerate(rows, start=1)]
    nodes.append(node(len(nodes) + 1, turn_id="last", embedding=vector(1, 2, 3, 4)))
    source = make_memory(folder / "graph.sqlite", nodes=nodes)
    before = read_source(source).nodes
    migrate(source, reader_python=Path("none"))
    change(source, "DELETE FROM memory_nodes WHERE turn_id <> 'last'")
    apply(source)
    after = read_source(source).nodes
    assert after.keys() == before.keys()
    read_as = {name: NODE_DEFAULTS[name] for name in FILLED_COLUMNS}  # what the agent reads a NULL of these as
    for key, row in before.items():
        for name, value in row.items():
            wanted = read_as.get(name) if value is None and key in range(1, len(nodes)) else value
            assert same_value(after[key][name], int(wanted) if isinstance(wanted, bool) else wanted), (key, name)


# Killed in the middle


#: A program that rolls back and kills itself just before a function is called, or where it returns.
KILLED = """
import os, signal, sys
from pathlib import Path
from nimad.config import Settings
from nimad.rollback import rollback, writer

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

place, name = {"rollback": rollback, "writer": writer._Writer, "memory": writer.MemoryWriter}[sys.argv[2]], sys.argv[3]
setattr(place, name, die)
rollback.apply_rollback(Settings(source=Path(sys.argv[1]), reader_python=Path("none")))
"""


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("place", "name", "written"),
    [
        pytest.param("rollback", "_backed_up", False, marks=pytest.mark.long),  # the record is there
        ("writer", "change_all", False),  # rows were added, and nothing is committed
        pytest.param("rollback", "_look_again", True, marks=pytest.mark.long),  # committed
        ("rollback", "move_aside", True),  # everything but the last step
    ],
)
def test_a_killed_rollback_leaves_sqlite_before_or_after_and_is_completed_by_the_next(
    source: Path, place: str, name: str, *, written: bool
) -> None:
    expected, before = lived_on(source), saying(read_source(source))
    words = [sys.executable, "-c", KILLED, str(source), place, name]
    died = subprocess.run(words, check=False, capture_output=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert saying(read_source(source)) == (expected if written else before)
    assert target_of(source).exists()
    done = apply(source)
    assert saying(read_source(source)) == expected
    assert (done.sqlite_backup is None) == written
    assert not target_of(source).exists()


@pytest.mark.long
def test_a_rollback_that_is_killed_at_any_instant_is_completed_by_the_next(source: Path, tmp_path: Path) -> None:
    expected, before = lived_on(source), saying(read_source(source))
    kept = tmp_path / "kept"
    shutil.copytree(source.parent, kept, ignore=shutil.ignore_patterns("kept"), symlinks=True)
    chance, ends = Random(7), {"before": 0, "after": 0, "aside": 0, "too late": 0}
    whole_s = 0.0  # the first one is not killed, and says how long one takes here
    for _ in range(41):
        for path in (*source.parent.glob("graph.*"), *source.parent.glob("ladybug.*")):
            path.unlink()
        for path in kept.iterdir():
            shutil.copy(path, source.parent, follow_symlinks=False)
        words = [sys.executable, "-m", "nimad", "rollback", "--source", str(source), "--apply"]
        began = time.monotonic()
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            with suppress(subprocess.TimeoutExpired):
                running.wait(chance.uniform(0.1, 1.0) * whole_s if whole_s else None)
            running.kill()
        whole_s = whole_s or time.monotonic() - began
        now = saying(read_source(source))
        assert now in (before, expected)
        gone = not target_of(source).exists()
        ends[
            "too late" if running.returncode == 0 else "aside" if gone else "after" if now == expected else "before"
        ] += 1
        apply(source)
        assert saying(read_source(source)) == expected
        assert not target_of(source).exists()
    assert ends["before"], ends
    print(ends)


@pytest.mark.long
def test_a_kill_while_the_target_is_set_aside_is_told_of_as_done(source: Path) -> None:
    expected = lived_on(source)
    words = [sys.executable, "-c", KILLED, str(source), "rollback", "sync"]
    # The record is synced first; so only where nothing is to be carried is this the last step.
    apply(source)
    shutil.move(str(next(source.parent.glob("graph.ladybug.backup-*[0-9]"))), target_of(source))
    died = subprocess.run(words, check=False, capture_output=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not target_of(source).exists()
    assert apply(source).before
    assert saying(read_source(source)) == expected


def test_what_is_written_to_sqlite_meanwhile_is_seen(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = lived_on(source)
    writes: Iterator[str] = iter(["UPDATE memory_nodes SET who = 'somebody' WHERE id = 40"])

    def meanwhile(connection: sqlite3.Connection, to: Path) -> None:
        back_up(connection, to)
        for statement in writes:
            change(source, statement)

    monkeypatch.setattr("nimad.rollback.rollback.back_up", meanwhile)
    done = apply(source)
    assert saying(read_source(source)) == expected
    assert read_source(source).nodes[40]["who"] == "somebody"
    assert list(source.parent.glob("graph.sqlite.backup-*")) == [done.sqlite_backup], (
        "one backup, and of the last state"
    )


# What it refuses


def refused(source: Path, kind: type[NimadError], match: str) -> None:
    before = everything_in(source.parent)
    with pytest.raises(kind, match=match):
        apply(source)
    assert everything_but(source.parent, "-shm", "-wal") == {
        name: data for name, data in before.items() if "-shm" not in str(name) and "-wal" not in str(name)
    }


def test_a_target_that_a_program_has_open_is_left_alone(source: Path) -> None:
    program = "import sys, ladybug; db = ladybug.Database(sys.argv[1], buffer_pool_size=1 << 26, max_db_size=1 << 32); "
    program += "print('open', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, str(target_of(source))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        refused(source, RefusedError, rf"is open in another program \(PID {other.pid}\); stop that first")
        assert look(source).holder == other.pid


def test_a_run_that_works_on_the_target_is_not_disturbed(source: Path) -> None:
    with locked(Files(target_of(source))):
        refused(source, LockedError, "another nimad")


def test_a_damaged_memory_is_not_written_to(source: Path) -> None:
    written_by_agent(target_of(source), 200, [61, 62, 63])
    data = bytearray(source.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    with closing(sqlite3.connect(source)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'memory_edges'").fetchone()[0]
    data[(root - 1) * page : (root - 1) * page + 8] = bytes(8)
    source.write_bytes(data)
    refused(source, SourceDamagedError, "nothing is written to it")


#: Tables that no row is written to, by how they are declared.
ODD_TABLES: dict[str, tuple[str, list[Any]]] = {
    "an id that is no key": ("(id INTEGER, text TEXT, turn_id TEXT, layer TEXT, timestamp INTEGER)", [1, 2]),
    "ids that are texts": ("(id TEXT PRIMARY KEY, text TEXT, turn_id TEXT, layer, timestamp)", ["a", "b"]),
    "no rowids": ("(id TEXT PRIMARY KEY, text TEXT, turn_id TEXT, layer, timestamp) WITHOUT ROWID", ["a", "b"]),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ODD_TABLES)
def test_a_table_of_another_shape_is_not_written_to(tmp_path: Path, kind: str) -> None:
    """What the agent wrote since is listed all the same, with the way out; where that is nothing, it is a rollback."""
    columns, ids = ODD_TABLES[kind]
    rows, schema = [node(own, turn_id=f"t{own}") for own in ids], [f"CREATE TABLE memory_nodes {columns}"]
    source = make_memory(tmp_path / "graph.sqlite", schema=schema, own_schema=True, nodes=rows)
    migrate(source, reader_python=Path("none"))
    assert not look(source).writes
    target = target_of(source)
    with opened(target) as write:
        write("CREATE (:MemoryNode {id: 7000, text: 'of the agent', layer: 'input', turn_id: 't7', timestamp: 7})")
    found = look(source)
    assert (list(found.added), found.added["memory_nodes"].count) == (["memory_nodes"], 1)
    assert "whose id is not its INTEGER PRIMARY KEY" in found.obstacle
    assert found.obstacle.endswith(f"mv {target} {target}.aside")
    refused(source, RefusedError, "whose id is not its INTEGER PRIMARY KEY")


#: What a trigger does that only the agent's connection can, and a table that it needs for that.
OF_AN_EXTENSION = {
    "a module": (
        "INSERT INTO vec_memories (rowid, embedding) VALUES (new.id, new.embedding)",
        "CREATE VIRTUAL TABLE vec_memories USING vec0(embedding float[8])",
    ),
    "a function": ("UPDATE memory_turns SET affect_json = embed_of(new.text) WHERE id = -1", ""),
    "a collation": ("DELETE FROM memory_turns WHERE id = -1 AND turn_id = new.who COLLATE agents_own", ""),
    "a table of another file": ("INSERT INTO vectors_elsewhere VALUES (new.id)", ""),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", OF_AN_EXTENSION)
def test_a_trigger_that_needs_an_extension_is_foretold_and_named_with_the_way_out(source: Path, kind: str) -> None:
    there = lived_on(source)
    does, table = OF_AN_EXTENSION[kind]
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE TRIGGER harmless AFTER INSERT ON memory_nodes BEGIN SELECT 1; END")
        connection.execute(f"CREATE TRIGGER nodes_to_vec AFTER INSERT ON memory_nodes BEGIN {does}; END")
        if table:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) "
                "VALUES ('table', 'vec_memories', 'vec_memories', 0, ?)",
                (table,),
            )
    looked = nimad(source.parent, "rollback", "--source", source)
    assert looked.code == ExitCode.QUARANTINED
    assert "the trigger nodes_to_vec of memory_nodes needs an extension" in looked.out
    assert "--apply" not in looked.out
    done = nimad(source.parent, "rollback", "--source", source, "--apply")
    assert (done.code, "nodes_to_vec" in done.err) == (ExitCode.INTERRUPTED, True)
    assert target_of(source).exists()
    assert not list(source.parent.glob("*.backup-*"))

    way_out = looked.out.split("drop it with: ")[1].split(" ; then roll back")[0]
    subprocess.run(["/bin/sh", "-c", way_out], check=True, env={**os.environ, "HOME": str(source.parent)})
    assert nimad(source.parent, "rollback", "--source", source, "--apply").code == ExitCode.COMPLETE
    assert saying(read_source(source)) == there
    kept = source.with_name(f"{source.name}.triggers.sql").read_text()
    assert kept.startswith("CREATE TRIGGER nodes_to_vec")


@pytest.mark.long
def test_a_ghosts_note_is_no_text_of_a_memory_where_sqlite_has_no_mark(tmp_path: Path) -> None:
    """A memory that the plugin alone made has no column `is_ghost`."""
    source = make_memory(tmp_path / "graph.sqlite", "2.0", nodes=[node(1), node(2)])
    migrate(source, reader_python=Path("none"))
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 2}) SET n.is_ghost = true, n.text = '[Ghosted: Merged into 1]'")
        connection.execute("MATCH (n:MemoryNode {id: 1}) SET n.text = 'both of them'")
    assert nimad(tmp_path, "rollback", "--source", source, "--apply").code == ExitCode.QUARANTINED
    texts = {key: row["text"] for key, row in read_source(source).nodes.items()}
    assert texts == {1: "both of them", 2: "memory 2"}
    (record,) = tmp_path.glob("*.rollback-*.jsonl")
    assert "[Ghosted: Merged into 1]" in record.read_text()


def test_the_triggers_of_the_plugin_keep_its_index_of_texts(source: Path) -> None:
    """Every release of nima-core makes them, and SQLite 3.40 holds them for unsafe in a schema that is not trusted."""
    there = lived_on(source)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute(
            "CREATE VIRTUAL TABLE memory_fts USING fts5(text, content='memory_nodes', content_rowid='id')"
        )
        connection.execute("INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")
        new, old = (
            f"INSERT INTO memory_fts ({{}}rowid, text) VALUES ({{}}{row}.id, {row}.text)" for row in ("new", "old")
        )
        delete = old.format("memory_fts, ", "'delete', ")
        for event, does in (("INSERT", [new.format("", "")]), ("UPDATE", [delete, new.format("", "")])):
            body = "; ".join(does)
            connection.execute(f"CREATE TRIGGER on_{event} AFTER {event} ON memory_nodes BEGIN {body}; END")
    assert nimad(source.parent, "rollback", "--source", source, "--apply").code == ExitCode.COMPLETE
    assert saying(read_source(source)) == there
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("INSERT INTO memory_fts (memory_fts, rank) VALUES ('integrity-check', 1)")


#: What SQLite 3.40 cannot parse, and a newer one writes: its type in the schema, and its text.
NEWER = {
    "a view": ("view", "CREATE VIEW newer AS SELECT group_concat(text, ' ' ORDER BY timestamp) FROM memory_nodes"),
    "a trigger": (
        "trigger",
        "CREATE TRIGGER newer AFTER INSERT ON memory_nodes BEGIN UPDATE memory_nodes SET strength = 1 NEW; END",
    ),
}


def newer(source: Path, kind: str) -> None:
    """As the agent's own SQLite wrote it."""
    row = (NEWER[kind][0], "memory_nodes" if kind == "a trigger" else "newer", f"{NEWER[kind][1]} NEW")
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) VALUES (?, 'newer', ?, 0, ?)", row
        )


@pytest.mark.sampled
@pytest.mark.parametrize("kind", NEWER)
def test_a_definition_of_a_newer_sqlite_is_told_before_and_is_no_damage(source: Path, kind: str) -> None:
    written_by_agent(target_of(source), 200, [61, 62, 63])
    newer(source, kind)
    found = look(source)
    assert (found.exit_code, found.writes) == (ExitCode.QUARANTINED, True)
    assert "has a definition that SQLite" in found.obstacle
    refused(source, RefusedError, r"cannot parse, so it is read and not written to; roll back with a Python that has")


def test_where_sqlite_has_everything_a_definition_of_a_newer_one_is_no_obstacle(source: Path) -> None:
    newer(source, "a view")
    before = source.read_bytes()
    assert not look(source).obstacle
    assert apply(source).set_aside is not None
    assert source.read_bytes() == before
    assert not target_of(source).exists()


INTO_INDEX = "INSERT INTO memory_fts (rowid, text) VALUES (new.id, new.text)"
OUT_OF_INDEX = "INSERT INTO memory_fts (memory_fts, rowid, text) VALUES ('delete', old.id, old.text)"
#: Who keeps the index of texts up to date, where its name and that of the memories are written in capitals.
KEPT_BY = {
    "nobody": (),
    "triggers": (
        f"CREATE TRIGGER on_insert AFTER INSERT ON memory_nodes BEGIN {INTO_INDEX}; END",
        f"CREATE TRIGGER on_update AFTER UPDATE ON memory_nodes BEGIN {OUT_OF_INDEX}; {INTO_INDEX}; END",
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("by", KEPT_BY)
def test_names_in_capitals_are_the_same_tables_going_back(tmp_path: Path, by: str) -> None:
    """SQLite's lists have a name as it was declared."""
    renamed = ("ALTER TABLE memory_nodes RENAME TO other", "ALTER TABLE other RENAME TO Memory_NODES")
    index = "CREATE VIRTUAL TABLE MEMORY_FTS USING fts5(Text, content='memory_nodes', content_rowid='id')"
    had = ("INSERT INTO memory_nodes (id, text, layer, timestamp) VALUES (80, '', '', 0)", "DELETE FROM memory_nodes")
    schema = (*had, *renamed, index, *KEPT_BY[by])
    source = make_memory(tmp_path / "graph.sqlite", "3.0", schema=schema, nodes=[node(key) for key in range(1, 9)])
    if by == "nobody":
        change(source, "INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")
    migrate(source, reader_python=Path("none"))
    with agent(target_of(source)) as connection:
        connection.execute("CREATE (:MemoryNode {id: 77, layer: 'input', text: 'zebra', turn_id: 't', timestamp: 5})")
        connection.execute("MATCH (n:MemoryNode {id: 5}) SET n.text = 'giraffe'")
    assert apply(source).set_aside is not None
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        found = connection.execute("SELECT rowid FROM memory_fts WHERE memory_fts MATCH 'zebra OR giraffe'").fetchall()
        connection.execute("INSERT INTO memory_fts (memory_fts, rank) VALUES ('integrity-check', 1)")
    assert sorted(found) == [(5,), (77,)], "and the id is free: SQLite knows of 80"


def test_a_generated_column_is_not_written_to(tmp_path: Path) -> None:
    source = make_memory(
        tmp_path / "graph.sqlite",
        schema=["ALTER TABLE memory_nodes ADD COLUMN size INTEGER GENERATED ALWAYS AS (length(text))"],
        nodes=[node(1, turn_id="t1")],
    )
    migrate(source, reader_python=Path("none"))
    with agent(target_of(source)) as connection:
        connection.execute("CREATE (:MemoryNode {id: 2, layer: 'input', text: 'of the agent', turn_id: 't2', size: 3})")
        connection.execute("MATCH (n:MemoryNode {id: 1}) SET n.summary = 'in short', n.size = 77")
    assert nimad(source.parent, "rollback", "--source", source, "--apply").code in (0, 1)
    with closing(sqlite3.connect(source)) as connection:
        rows = connection.execute("SELECT text, summary, size FROM memory_nodes ORDER BY id").fetchall()
    assert rows == [("memory 1", "in short", 8), ("of the agent", None, 12)]


def test_another_agents_memory_is_not_mixed_in(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = make_memory(
        folder / "graph.sqlite", nodes=[node(key, turn_id=f"o{key}", layer=LAYERS[0]) for key in range(1, 9)]
    )
    shutil.copy(target_of(source), target_of(other))
    refused(other, RefusedError, "0 are among the 8")
    shutil.copy(beside(target_of(source), ".state.json"), beside(target_of(other), ".state.json"))
    refused(other, UsageError, "was made from")


def test_a_memory_that_may_not_be_written_to_is_told(source: Path, restricted: list[str]) -> None:
    written_by_agent(target_of(source), 200, [61, 62, 63])
    source.chmod(0o444)
    done = nimad(source.parent, "rollback", "--source", source, "--apply", prefix=restricted)
    assert done.code == ExitCode.NOT_ALLOWED, done.err
    assert "run as its owner" in done.error
    assert target_of(source).exists()
    assert not beside(target_of(source), ".paused").exists()


# What people see


def shown(done: Ran) -> str:
    text = done.out.replace(str(done.folder), "/memory").replace(f"{sys.executable} -P -m nimad", "nimad")
    return "".join(line + "\n" for line in map(_undated, text.splitlines()))


def _undated(line: str) -> str:
    import re

    return re.sub(r"\d{8}-\d{6}", "DATE", line)


def test_what_people_see_is_kept_as_a_golden_file(source: Path) -> None:
    lived_on(source)
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 9}) SET n.emotions = 'joy'")
    words = ("rollback", "--source", source)
    before = everything_in(source.parent)
    looked = nimad(source.parent, *words)
    assert everything_in(source.parent) == before
    done = nimad(source.parent, *words, "--apply")
    after = everything_in(source.parent)
    assert (looked.code, done.code) == (ExitCode.QUARANTINED, ExitCode.QUARANTINED)
    text = f"$ nimad rollback\n{shown(looked)}\n$ nimad rollback --apply\n{shown(done)}"
    golden = GOLDEN / "rollback.txt"
    if os.environ.get("NIMAD_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    again = nimad(source.parent, *words, "--json")
    assert everything_in(source.parent) == after
    assert (again.code, json.loads(again.out)["openclaw"]) == (0, {"backend": "sqlite", "auto_migrate": False})


def test_a_rollback_of_a_copied_folder_writes_to_the_memory_of_that_folder(source: Path, tmp_path: Path) -> None:
    """The copy's state file tells of the first folder's memory, which is there too, and the default of this home."""
    home = tmp_path / "home"
    first, second = home / ".nima/memory", home / ".nima2/memory"
    shutil.copytree(source.parent, first, symlinks=True, ignore=shutil.ignore_patterns("home"))
    shutil.copytree(first, second, symlinks=True)
    with agent(second / "graph.ladybug") as connection:
        connection.execute(
            "CREATE (:MemoryNode {id: 900, layer: 'input', turn_id: 'mine', text: 'of the copy', timestamp: 9})"
        )
    before = (first / "graph.sqlite").read_bytes()
    done = nimad(home, "rollback", "--apply", "--target", second / "graph.ladybug")
    assert done.code == 0, done.err
    assert (first / "graph.sqlite").read_bytes() == before
    with closing(sqlite3.connect(second / "graph.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM memory_nodes WHERE turn_id = 'mine'").fetchone() == (1,)
