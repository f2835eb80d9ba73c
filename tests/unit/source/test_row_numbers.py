"""Ids that are no integers: the memories arrive under numbers that stay, with their own ids and all that."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support.memories import Memory, change
from test_text_ids import IDS, assert_all_there, made, uuid

from nimad.source.rows import convert_rows, read_slices, read_strays
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey


def read(path: Path) -> Memory:
    """The memory as it would be loaded, with nothing set aside."""
    source = SourceFile(path)
    schema = survey(source).schema
    found = Memory({}, {}, {}, {"has_input": [], "has_output": []}, {})
    for table in schema.tables():
        for _, part in read_slices(source, table, (None, 2**63 - 1), 5, 10**9):
            judged = convert_rows(part, schema)
            assert judged.rejects == []
            names = [*table.ends, *(column.target for column in table.columns)]
            for position, key in enumerate(judged.rows.keys):
                row = {name: values[position] for name, values in zip(names, judged.columns, strict=True)}
                side = {"memory_nodes": found.nodes, "memory_edges": found.edges, "memory_turns": found.turns}
                side[table.name][key] = row
        assert not source.read(partial(read_strays, table=table)).keys
    for key, row in found.turns.items():
        found.links["has_input"].append((key, row["input_node_id"]))
        found.links["has_output"].append((key, row["output_node_id"]))
    return found


@pytest.mark.parametrize("kind", IDS)
def test_a_row_whose_id_is_no_integer_has_a_number_and_what_names_it_too(tmp_path: Path, kind: str) -> None:
    there = read(made(tmp_path / "graph.sqlite", kind))
    assert_all_there(there, IDS[kind][1])
    own = "node_id" if "by another name" in kind else "id_"
    assert {row["text"]: row[own] for row in there.nodes.values()}.keys() == {f"memory {i!r}" for i in IDS[kind][1]}
    if kind == "texts":
        assert {row["text"] for row in there.nodes.values()} == {f"memory {row[own]!r}" for row in there.nodes.values()}


@pytest.mark.parametrize("kind", ["texts", "texts without rowids", "texts and integers"])
def test_rows_that_come_later_renumber_none(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path / "graph.sqlite", kind)
    before = read(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM memory_nodes WHERE text = ?", (f"memory {IDS[kind][1][0]!r}",))
        connection.execute("DELETE FROM memory_edges")
        connection.execute("DELETE FROM memory_turns")
        for own in ("", "0", "zz", uuid(99)):
            connection.execute("INSERT INTO memory_nodes (id, text) VALUES (?, ?)", (own, f"late {own}"))
        connection.execute("VACUUM")
    after = read(path)
    kept = {key: row for key, row in before.nodes.items() if row["text"] != f"memory {IDS[kind][1][0]!r}"}
    assert {key: row for key, row in after.nodes.items() if not row["text"].startswith("late")} == kept
    assert len(after.nodes) == len(kept) + 4


def test_a_text_that_names_no_memory_is_set_aside_as_it_is(tmp_path: Path) -> None:
    path = made(tmp_path / "graph.sqlite", "texts")
    change(path, "UPDATE memory_edges SET target_id = 'nobody' WHERE id = 3")
    source = SourceFile(path)
    schema = survey(source).schema
    assert schema.edges is not None
    ((_, rows),) = read_slices(source, schema.edges, (None, 2**63 - 1), 100, 10**9)
    (entry,) = convert_rows(rows, schema).rejects
    assert (entry.id, entry.part, entry.row["target_id"]) == (3, "row", "nobody")
