"""Each shape that a memory has in the field, and some that only bad luck makes: all of it arrives."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.memories import (
    assert_same,
    edge,
    make_memory,
    migrate,
    migrate_smoothly,
    node,
    read_target,
    turn,
    vector,
)

import nimad
from nimad.compare.comparison import compare
from nimad.diagnostics.health import of_memory
from nimad.diagnostics.status import status
from nimad.errors import SourceError
from nimad.events.run import Analyzed
from nimad.migration.salvage import SalvageDir, readable
from nimad.sample import Sample, write_sample
from nimad.source.rows import column_names, read_slices
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey
from nimad.state.paths import Files
from nimad.sync.follower import Follower

#: The columns that nima-core's readers ask for, and `created_at` (NIMA.md).
NODE_COLUMNS = {
    "id": "INT64",
    "timestamp": "INT64",
    "layer": "STRING",
    "text": "STRING",
    "summary": "STRING",
    "who": "STRING",
    "affect_json": "STRING",
    "session_key": "STRING",
    "conversation_id": "STRING",
    "turn_id": "STRING",
    "fe_score": "DOUBLE",
    "embedding": "FLOAT[8]",
    "strength": "DOUBLE",
    "decay_rate": "DOUBLE",
    "last_accessed": "INT64",
    "is_ghost": "BOOL",
    "dismissal_count": "INT64",
    "recall_count": "INT64",
    "memory_type": "STRING",
    "importance": "DOUBLE",
    "emotions": "STRING",
    "themes": "STRING",
    "source_agent": "STRING",
    "model": "STRING",
    "created_at": "STRING",
}
EDGE_COLUMNS = {"edge_id": "INT64", "relation": "STRING", "weight": "DOUBLE", "created_at": "STRING"}
TURN_COLUMNS = {
    "id": "INT64",
    "turn_id": "STRING",
    "timestamp": "INT64",
    "affect_json": "STRING",
    "created_at": "STRING",
}
TABLES_3_1 = {
    "nima_dream_runs",
    "nima_insights",
    "nima_lucid_moments",
    "nima_patterns",
    "nima_pruner_runs",
    "nima_suppressed_memories",
}
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.sqlite"


def table(name: str, columns: str) -> str:
    return f"CREATE TABLE {name} ({columns})"


def adding(name: str, *columns: str) -> list[str]:
    """SQL that adds columns, given as `"name" TYPE`, to a table."""
    return [f"ALTER TABLE {name} ADD COLUMN {column}" for column in columns]


# The released shapes


@pytest.mark.sampled
@pytest.mark.parametrize("shape", ["1.0", "2.0", "2.2", "3.0", "3.1"])
def test_every_row_and_column_of_a_released_shape_arrives(path: Path, shape: str) -> None:
    counts = write_sample(path, Sample(nodes=60, shape=shape, dimension=8, embedded_share=0.8))
    run = migrate_smoothly(path)

    target = assert_same(path, run.target)
    assert len(target.nodes) == counts.nodes == 60
    assert len(target.edges) == counts.edges > 30
    assert len(target.turns) == counts.turns > 30
    assert sum(map(len, target.links.values())) > 40
    assert (run.result.migrated, run.result.edges, run.result.turns) == (60, counts.edges, counts.turns)
    assert (run.result.exit_code, run.quarantine) == (0, [])

    # Readers find all their columns whatever the source lacks, empty ones too.
    width = "FLOAT[512]" if shape < "2.2" else "FLOAT[8]"  # without a single embedding, NIMA's own default
    assert target.types["MemoryNode"] == NODE_COLUMNS | {"embedding": width}
    assert target.types["relates_to"] == EDGE_COLUMNS
    assert target.types["Turn"] == TURN_COLUMNS
    for row in target.nodes.values():
        assert [row[name] for name in ("memory_type", "importance", "emotions", "model")] == [None] * 4
        assert row["recall_count"] == 0
        assert shape >= "2.2" or (row["strength"], row["is_ghost"]) == (1.0, False)

    analyzed = run.only(Analyzed)
    assert (analyzed.nodes, analyzed.edges, analyzed.turns) == (60, counts.edges, counts.turns)
    assert sum(analyzed.layers.values()) == 60
    assert set(analyzed.layers) == {"contemplation", "input", "legacy_vsa", "output"}
    left_out = {name: (rows, why) for name, rows, why in analyzed.left_out}
    expected = dict.fromkeys(TABLES_3_1 if shape == "3.1" else (), (3, "not migrated"))
    assert left_out == {**expected, "memory_fts": (60, "an index, not data")}


# What is not migrated


def test_nodes_only_leaves_edges_and_turns_behind_and_says_so(path: Path) -> None:
    make_memory(path, "3.0", nodes=[node(1), node(2)], edges=[edge(1, 1, 2)], turns=[turn(1, 1, None, 2)])
    run = migrate_smoothly(path, nodes_only=True)

    target = assert_same(path, run.target, nodes_only=True)
    assert (len(target.nodes), target.edges, target.turns) == (2, {}, {})
    left_out = {name: rows for name, rows, _ in run.only(Analyzed).left_out}
    assert left_out == {"memory_edges": 1, "memory_turns": 1}


# Tables that are missing, empty or incomplete


def test_a_memory_of_nodes_alone_is_a_memory_and_a_table_of_ones_own_is_named(path: Path) -> None:
    own = [table("memory_nodes", "id INTEGER PRIMARY KEY, text TEXT")]
    own += [table('"my ""notes"""', "note TEXT"), 'INSERT INTO "my ""notes""" VALUES (1), (2)']
    make_memory(path, schema=own, own_schema=True, nodes=[{"id": 1, "text": "alone"}])
    run = migrate_smoothly(path)

    assert list(run.only(Analyzed).left_out) == [('my "notes"', 2, "not migrated")]
    target = assert_same(path, run.target)
    assert target.nodes[1]["text"] == "alone"
    assert target.types["relates_to"] == EDGE_COLUMNS  # readers ask for every table
    assert target.types["Turn"] == TURN_COLUMNS


def test_a_memory_without_a_row_becomes_an_empty_target(path: Path) -> None:
    make_memory(path)
    run = migrate_smoothly(path)

    target = assert_same(path, run.target)
    assert (target.nodes, target.edges, target.turns) == ({}, {}, {})
    assert target.types["MemoryNode"] == NODE_COLUMNS | {"embedding": "FLOAT[512]"}
    assert run.result.exit_code == 0


def test_edges_that_lack_an_end_are_left_out_by_name_and_turns_need_none(path: Path) -> None:
    own = [
        table("memory_nodes", "id INTEGER PRIMARY KEY"),
        table("memory_edges", "id INTEGER PRIMARY KEY, source_id INTEGER, relation TEXT"),
        table("memory_turns", "id INTEGER PRIMARY KEY, turn_id TEXT, output_node_id INTEGER"),
    ]
    edges = [{"id": 1, "source_id": 1, "relation": "triggered"}]
    turns = [{"id": 1, "turn_id": "t", "output_node_id": 1}]
    make_memory(path, schema=own, own_schema=True, nodes=[{"id": 1}], edges=edges, turns=turns)
    run = migrate_smoothly(path)

    assert list(run.only(Analyzed).left_out) == [("memory_edges", 1, "it has no column target_id")]
    assert run.result.exit_code == 1
    target = read_target(run.target)
    assert (target.edges, target.turns[1]["turn_id"], target.links["has_output"]) == ({}, "t", [(1, 1)])


# Columns of one's own

EXTRA_COLUMNS = ["mood INTEGER", "score REAL", "note TEXT", "image BLOB", "price NUMERIC", "share NUMERIC"]
EXTRA_COLUMNS += ["code", "raw", "seen DATETIME", "done BOOLEAN", "empty"]
EXTRA_TYPES = {
    "mood": "INT64",
    "score": "DOUBLE",
    "note": "STRING",
    "image": "BLOB",
    # NUMERIC, its like and no type at all say nothing: what is there decides.
    "price": "INT64",
    "share": "DOUBLE",
    "code": "STRING",
    "raw": "BLOB",
    "seen": "STRING",
    "done": "INT64",
    "empty": "STRING",
}
EXTRA_ROW: dict[str, Any] = {
    "mood": -(2**40),
    "score": 0.1,
    "note": "größer",
    "image": b"\x00\xff\x89PNG",
    "price": 12,
    "share": 0.25,
    "code": "A7",
    "raw": b"\xfe",
    "seen": "2026-03-01 10:00:00",
    "done": 1,
}


def test_columns_of_ones_own_keep_name_type_and_value(path: Path) -> None:
    added = [one for name in ("node", "edge", "turn") for one in adding(f"memory_{name}s", *EXTRA_COLUMNS)]
    make_memory(
        path,
        schema=added,
        nodes=[node(1, **EXTRA_ROW), node(2)],
        edges=[edge(1, 1, 2, **EXTRA_ROW), edge(2, 2, 1)],
        turns=[turn(1, 1, **EXTRA_ROW), turn(2)],
    )
    target = assert_same(path, migrate_smoothly(path).target)

    assert target.types["MemoryNode"] == NODE_COLUMNS | {"embedding": "FLOAT[512]"} | EXTRA_TYPES
    assert target.types["relates_to"] == EDGE_COLUMNS | EXTRA_TYPES
    assert target.types["Turn"] == TURN_COLUMNS | EXTRA_TYPES
    for rows in (target.nodes, target.edges, target.turns):
        assert {name: rows[1][name] for name in EXTRA_ROW} == EXTRA_ROW
        assert {rows[2][name] for name in EXTRA_ROW} == {None}


def test_numbers_of_both_kinds_in_one_loose_column_become_floats_and_mixed_values_text(path: Path) -> None:
    added = adding("memory_nodes", "ratio NUMERIC", "label")
    rows = [node(1, ratio=1, label=7), node(2, ratio=0.5, label="seven"), node(3, ratio=None, label=0.5)]
    make_memory(path, schema=added, nodes=rows)
    target = read_target(migrate_smoothly(path).target)

    assert [(target.nodes[key]["ratio"], target.nodes[key]["label"]) for key in (1, 2, 3)] == [
        (1.0, "7"),
        (0.5, "seven"),
        (None, "0.5"),
    ]
    assert (target.types["MemoryNode"]["ratio"], target.types["MemoryNode"]["label"]) == ("DOUBLE", "STRING")


ODD_NAMES = [
    "with space",
    'double"quote',
    "single'quote",
    "back\\slash",
    "new\nline",
    "group",
    "order",
    "MATCH",
    "größe",
    "気分",
    "🙂",
    "dot.ted",
    "$dollar",
    "1st",
    "?",
]


def test_odd_column_names_arrive_as_they_are(path: Path) -> None:
    columns = ['"' + name.replace('"', '""') + '" TEXT' for name in ODD_NAMES]
    added = [one for name in ("node", "edge", "turn") for one in adding(f"memory_{name}s", *columns)]
    row = {name: f"value of {name}" for name in ODD_NAMES}
    make_memory(path, schema=added, nodes=[node(1, **row)], edges=[edge(1, 1, 1, **row)], turns=[turn(1, 1, **row)])
    target = assert_same(path, migrate_smoothly(path).target)
    for rows in (target.nodes, target.edges, target.turns):
        assert {name: rows[1][name] for name in ODD_NAMES} == row


def test_a_backtick_in_a_name_is_an_apostrophe_in_the_target(path: Path) -> None:
    """0.15.3 stores such a name as another one, and nothing arrived."""
    added = [one for name in ("node", "edge", "turn") for one in adding(f"memory_{name}s", '"a`b" TEXT', '"a\'b" TEXT')]
    row = {"a`b": "back", "a'b": "straight"}
    make_memory(path, schema=added, nodes=[node(1, **row)], edges=[edge(1, 1, 1, **row)], turns=[turn(1, 1, **row)])
    run = migrate_smoothly(path)
    assert run.result.exit_code == 0
    target = read_target(run.target)
    for rows in (target.nodes, target.edges, target.turns):
        assert {rows[1]["a'b"], rows[1]["a'b_"]} == {"back", "straight"}


def test_a_column_whose_name_is_no_text_is_left_out_by_its_name(path: Path) -> None:
    make_memory(path, schema=adding("memory_nodes", "namex TEXT"), nodes=[node(1, namex="lost"), node(2)])
    path.write_bytes(path.read_bytes().replace(b"namex", b"name\xff"))
    run = migrate_smoothly(path)
    assert (run.result.exit_code, len(read_target(run.target).nodes)) == (0, 2)
    assert ("memory_nodes.name\ufffd", None, "its name is not valid UTF-8") in run.only(Analyzed).left_out


def test_names_that_the_engine_keeps_or_takes_for_one_get_an_underscore(path: Path) -> None:
    # COPY fills columns of an edge called `from` and `to` with the ends' ids, and reports success.
    in_edges = ("from", "to", "edge_id", "_id", "_label", "_src", "_dst")
    added = adding("memory_edges", *(f'"{name}" INTEGER' for name in in_edges))
    added += adding("memory_nodes", '"_id" INTEGER', '"_id_" TEXT', '"from" TEXT')
    added += adding("memory_nodes", '"été" TEXT', '"ÉTÉ" TEXT')  # one name to the engine, two to SQLite
    row = {name: 1_000 + number for number, name in enumerate(in_edges)}
    make_memory(
        path,
        schema=added,
        nodes=[node(1, **{"_id": 77, "_id_": "taken", "from": "afar", "été": "summer", "ÉTÉ": "SUMMER"}), node(2)],
        edges=[edge(7, 1, 2, **row)],
    )
    target = read_target(migrate_smoothly(path).target)

    (arrived,) = target.edges.values()
    assert {name: arrived[f"{name}_"] for name in in_edges} == row
    assert (arrived["edge_id"], arrived["source_id"], arrived["target_id"]) == (7, 1, 2)
    one = target.nodes[1]
    assert (sorted([one["_id_"], one["_id__"]], key=str), one["from"]) == ([77, "taken"], "afar")
    assert (one["été"], one["ÉTÉ_"]) == ("summer", "SUMMER")


def test_column_names_in_capitals_are_the_same_columns(path: Path) -> None:
    own = [
        table("memory_nodes", "ID INTEGER PRIMARY KEY, Text TEXT, EMBEDDING BLOB"),
        table("memory_edges", "Id INTEGER PRIMARY KEY, Source_ID INTEGER, TARGET_ID INTEGER, Relation TEXT, WEIGHT"),
        table("memory_turns", "ID INTEGER PRIMARY KEY, Turn_ID TEXT, Input_Node_ID INTEGER"),
    ]
    make_memory(
        path,
        schema=own,
        own_schema=True,
        nodes=[{"ID": 1, "Text": "loud", "EMBEDDING": vector(1, 2)}],
        edges=[{"Id": 1, "Source_ID": 1, "TARGET_ID": 1, "Relation": "triggered", "WEIGHT": 0.5}],
        turns=[{"ID": 1, "Turn_ID": "t", "Input_Node_ID": 1}],
    )
    target = read_target(migrate_smoothly(path).target)

    assert (target.nodes[1]["text"], target.nodes[1]["embedding"]) == ("loud", vector(1, 2))
    assert (target.edges[1]["relation"], target.edges[1]["weight"]) == ("triggered", 0.5)
    assert (target.turns[1]["turn_id"], target.links["has_input"]) == ("t", [(1, 1)])


# Ids


def test_gaps_negative_ids_and_the_ends_of_int64_arrive_in_small_batches(path: Path) -> None:
    ids = [INT64_MIN, INT64_MIN + 1, -5, 0, 3, 4_000_000_000, INT64_MAX]
    edges = [edge(INT64_MIN, INT64_MIN, INT64_MAX), edge(-1, 0, -5), edge(INT64_MAX, 3, 3)]
    turns = [turn(INT64_MIN, INT64_MIN, 0, INT64_MAX), turn(INT64_MAX, -5)]
    make_memory(path, nodes=map(node, ids), edges=edges, turns=turns)
    run = migrate_smoothly(path, batch_size=3, fixed_batch=True)

    target = assert_same(path, run.target)
    assert sorted(target.nodes) == ids
    assert sorted(target.edges) == [INT64_MIN, -1, INT64_MAX]
    assert run.result.batches == 3 + 1 + 1


def test_edges_without_an_id_are_told_apart_by_their_rowid(path: Path) -> None:
    own = [
        table("memory_nodes", "id INTEGER PRIMARY KEY"),
        table("memory_edges", "source_id INTEGER, target_id INTEGER, relation TEXT, weight REAL"),
    ]
    same = {"source_id": 1, "target_id": 2, "relation": "triggered", "weight": 0.5}
    edges = [same, same, same | {"relation": "produced"}, {"rowid": 40, **same}]
    make_memory(path, schema=own, own_schema=True, nodes=[{"id": 1}, {"id": 2}], edges=edges)
    target = assert_same(path, migrate_smoothly(path).target)
    assert {key: row["relation"] for key, row in target.edges.items()} == {
        1: "triggered",
        2: "triggered",
        3: "produced",
        40: "triggered",
    }


LOOSE_IDS = [table("memory_nodes", "id, text TEXT, timestamp INTEGER")]


def loose(node_id: Any, text: str, **values: Any) -> dict[str, Any]:
    return {"id": node_id, "text": text, **values}


def test_a_second_row_of_an_id_and_one_without_go_to_quarantine(path: Path) -> None:
    rows = [loose(1, "first"), loose("seven", "in words"), loose(None, "nameless"), loose(1, "second"), loose(3, "x")]
    make_memory(path, schema=LOOSE_IDS, own_schema=True, nodes=rows)
    run = migrate_smoothly(path, max_set_aside="100%")

    there = {row["text"]: (key, row["id_"]) for key, row in read_target(run.target).nodes.items()}
    (seven, _) = there.pop("in words")
    assert there == {"first": (1, "1"), "x": (3, "3")}
    assert seven not in (1, 3)
    listed = {(line["id"], line["row"]["text"]): line["reason"] for line in run.quarantine}
    assert listed == {(1, "second"): "another row has the same id", (None, "nameless"): "its id is no integer"}
    assert (run.result.migrated, run.result.quarantined, run.result.exit_code) == (3, 2, 1)


def test_a_memory_of_nothing_but_rows_without_an_id_goes_to_quarantine_whole(path: Path) -> None:
    make_memory(path, schema=LOOSE_IDS, own_schema=True, nodes=[loose(None, "one"), loose(None, "two")])
    run = migrate_smoothly(path, max_set_aside="100%")
    assert read_target(run.target).nodes == {}
    assert {line["row"]["text"] for line in run.quarantine} == {"one", "two"}


def test_rows_that_share_an_id_or_have_none_are_all_listed(path: Path) -> None:
    rows = [loose(1, f"the same {number}") for number in range(4)]
    rows += [loose(None, f"nameless {number}") for number in range(3)]
    rows += [loose(2, "no time", timestamp="soon"), loose(2, "in time", timestamp=5)]
    make_memory(path, schema=LOOSE_IDS, own_schema=True, nodes=rows)
    run = migrate_smoothly(path, max_set_aside="100%")

    arrived = {row["text"] for row in read_target(run.target).nodes.values()}
    listed = {line["row"]["text"] for line in run.quarantine if line["part"] == "row"}
    assert arrived | listed == {row["text"] for row in rows}
    assert not arrived & listed
    assert run.result.migrated + run.result.quarantined == len(rows)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(
        st.one_of(st.integers(-3, 6), st.sampled_from([-(2**63), 2**63 - 1, "5", 5.0, 4.5, None])), max_size=14
    ),
    most=st.integers(1, 5),
    max_bytes=st.sampled_from([1, 400, 1_000, 10**6]),
)
def test_read_some_at_a_time_each_row_comes_once_and_those_of_one_id_together(
    keys: list[Any], most: int, max_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("loose") / "graph.sqlite"
    rows = [loose(key, f"text {number}") for number, key in enumerate(keys)]
    make_memory(path, schema=LOOSE_IDS, own_schema=True, nodes=rows)
    source = SourceFile(path)
    nodes = survey(source).schema.nodes
    slices = [found.values for _, found in read_slices(source, nodes, (None, 2**63 - 1), most, max_bytes)]

    texts = [row[column_names(nodes).index("text")] for part in slices for row in part]
    found = [row[0] for part in slices for row in part]
    whole = sorted(int(key) for key in keys if key not in (None, 4.5))
    assert [key for key in found if key in whole] == whole
    assert found == sorted(found)
    assert set(texts) == {row["text"] for row in rows if row["id"] is not None}
    firsts = [part[0][0] for part in slices]
    assert all(before[-1][0] < first for before, first in zip(slices, firsts[1:], strict=False))
    assert all(len({row[0] for row in part}) <= most for part in slices)


# What fails in one row, or is not there


def test_an_end_that_cannot_be_computed_in_one_row_costs_that_edge_alone(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 11)])
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("DROP TABLE memory_edges")
        connection.execute("CREATE TABLE memory_edges (id INTEGER PRIMARY KEY, doc TEXT, source_id INT, relation TEXT)")
        for key in range(1, 10):
            doc = f'{{"to": {key + 1}}}' if key != 7 else "no JSON"
            connection.execute("INSERT INTO memory_edges VALUES (?, ?, ?, 'r')", (key, doc, key))
        connection.execute("ALTER TABLE memory_edges ADD COLUMN target_id INT AS (json_extract(doc, '$.to'))")
    run = migrate(source, reader_python=Path("none"))
    assert run.result.edges == 8
    assert [(entry["table"], entry["id"], entry["part"]) for entry in run.quarantine] == [("memory_edges", 7, "row")]


@pytest.mark.parametrize("column", ["json_extract(affect_json, '$.valence')", "of_the_agent(text)"])
def test_a_column_of_a_view_that_fails_is_left_out_alone(tmp_path: Path, column: str) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, affect_json="no JSON") for key in range(1, 5)])
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE memory_nodes RENAME TO store")
        connection.execute(f"CREATE VIEW memory_nodes AS SELECT *, {column} AS more FROM store")
    run = migrate(source, reader_python=Path("none"))
    assert run.result.migrated == 4
    assert "memory_nodes.more" in [name for name, _, _ in run.only(Analyzed).left_out]


@pytest.mark.sampled
@pytest.mark.parametrize("table", ["memory_edges", "memory_turns"])
def test_edges_or_turns_that_are_a_view_of_what_is_gone_keep_no_memory_out(tmp_path: Path, table: str) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute(f"DROP TABLE {table}")
        connection.execute("CREATE TABLE gone (a)")
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM gone")
        connection.execute("DROP TABLE gone")
    run = migrate(source, reader_python=Path("none"))
    assert run.result.migrated == 1
    assert (table, None, "it cannot be read: no such table: main.gone") in run.only(Analyzed).left_out
    (entry,) = run.quarantine
    assert (run.result.exit_code, entry["table"], entry["part"]) == (1, table, "range")
    settings = nimad.Settings(source=source)
    assert status(settings).exit_code == 1
    health = of_memory(settings)
    assert not health.ok
    assert f"{table} cannot be read (no such table: main.gone)" in health.files[0].problem


BROKEN = "json_extract(CASE id WHEN 2 THEN '{' ELSE '{}' END, '$.a')"
#: By what ends every reading of a view: the table that it stands for, what it selects, and why it cannot be read.
ENDING: dict[str, tuple[str, str, str]] = {
    "its condition needs the agent's function": (
        "memory_edges",
        "* FROM store WHERE of_the_agent(id)",
        "it needs the function of_the_agent, which only the agent's program has",
    ),
    "its condition fails in one row": ("memory_turns", f"* FROM store WHERE {BROKEN} IS NULL", "malformed JSON"),
    "rows are told apart by what fails": (
        "memory_edges",
        f"DISTINCT id, source_id, target_id, {BROKEN} AS more FROM store",
        "malformed JSON",
    ),
    "its ids do not all compute": (
        "memory_turns",
        f"coalesce({BROKEN}, id) AS id, turn_id, input_node_id FROM store",
        "the column id of the view memory_turns, which tells its rows apart, does not compute in some row",
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ENDING)
def test_a_view_of_edges_or_turns_that_ends_at_some_row_keeps_no_memory_out(tmp_path: Path, kind: str) -> None:
    table, selected, why = ENDING[kind]
    edges, turns = [edge(key, key, key + 1) for key in (1, 2, 3)], [turn(key, key) for key in (1, 2, 3)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(n) for n in range(1, 6)], edges=edges, turns=turns)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO store")
        connection.execute(f"CREATE VIEW {table} AS SELECT {selected}")
    run = migrate(source, reader_python=Path("none"))
    (entry,) = run.quarantine
    assert (run.result.exit_code, entry["table"], entry["part"]) == (1, table, "range")
    assert why in entry["reason"]
    there = read_target(run.target)
    assert (set(there.nodes), len(there.edges) + len(there.turns)) == (set(range(1, 6)), 3)
    health = of_memory(nimad.Settings(source=source))
    assert f"{table} cannot be read ({why}" in health.files[0].problem
    compared = compare(nimad.Settings(source=source)).tables
    assert compared.keys() == {"memory_nodes", "memory_edges", "memory_turns"} - {table}


def test_turns_are_followed_beside_edges_that_cannot_be_read(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)], edges=[edge(1, 1, 1)], turns=[turn(1, 1)])
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE memory_turns ADD COLUMN tone TEXT DEFAULT 'calm'")
        connection.execute("ALTER TABLE memory_edges RENAME TO store")
        connection.execute("CREATE VIEW memory_edges AS SELECT * FROM store WHERE of_the_agent(id)")
    run = migrate(source, reader_python=Path("none"))
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE memory_turns DROP COLUMN tone")
        connection.execute("ALTER TABLE memory_turns ADD COLUMN mood TEXT DEFAULT 'glad'")
    settings = nimad.Settings(source=source, reader_python=Path("none"))
    assert not Follower(settings, threading.Event(), lambda _: None).catch_up(thorough=True).left_alone
    (there,) = read_target(run.target).turns.values()
    assert (there["tone"], there["mood"]) == ("calm", "glad")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            "CREATE VIRTUAL TABLE memory_edges USING vec0(source_id, target_id)",
            "it cannot be read: no such module: vec0",
        ),
        ("CREATE TABLE memory_edges (id INTEGER PRIMARY KEY, source_id INTEGER)", "it has no column target_id"),
    ],
)
def test_edges_none_of_which_can_be_drawn_are_set_aside_as_that(tmp_path: Path, made: str, why: str) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("DROP TABLE memory_edges")
        connection.execute("CREATE VIRTUAL TABLE boxes USING rtree(id, a, b)")
        if "VIRTUAL" in made:
            connection.execute("PRAGMA writable_schema = ON")
            put = "INSERT INTO sqlite_master VALUES ('table', 'memory_edges', 'memory_edges', 0, ?)"
            connection.execute(put, (made,))
        else:
            connection.execute(made)
            connection.execute("INSERT INTO memory_edges VALUES (1, 1)")
    settings = nimad.Settings(source=source)
    place, stop = SalvageDir(settings, Files.of(settings)), threading.Event()
    found = readable(settings, place, lambda _: None, stop)
    (entry,) = found.rejects
    assert (entry.table, entry.part) == ("memory_edges", "range")
    assert entry.reason == f"none of its rows can be migrated: {why}"
    assert readable(replace(settings, nodes_only=True), place, lambda _: None, stop).rejects == []


def test_memories_in_a_view_of_a_virtual_table_are_refused_with_the_way_out(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)])
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE VIRTUAL TABLE boxes USING rtree(number, a, b)")
        connection.execute("ALTER TABLE memory_nodes RENAME TO store")
        connection.execute("CREATE VIEW memory_nodes AS SELECT * FROM store LEFT JOIN boxes ON number = id")
    with pytest.raises(SourceError, match=r"unsafe use of virtual table .* its own schema asks for what is not here"):
        survey(SourceFile(source))
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:  # as docs/TROUBLESHOOTING.md says it
        connection.executescript(
            "CREATE TABLE plain AS SELECT * FROM memory_nodes; DROP VIEW memory_nodes; "
            "ALTER TABLE plain RENAME TO memory_nodes"
        )
    assert survey(SourceFile(source)).nodes.rows == 2
