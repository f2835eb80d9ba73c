"""What only the agent's own SQLite has, and tables of other shapes: every memory arrives, and what does not."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.memories import insert, make_memory, node
from test_source_structure import (
    EDGES,
    FAILING,
    HARMLESS,
    MOOD,
    NODES,
    PLAIN,
    TURNS,
    declare,
    failing,
    forget,
    of_nodes,
    path,
)

from nimad.errors import SourceError
from nimad.source.cells import Uncomputed
from nimad.source.quick_check import damage, unclaimed
from nimad.source.rows import Reject, column_names, convert_rows, convert_strays, read_slices, read_strays
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey

__all__ = ["path"]  # fixtures


def read_and_judged(path: Path) -> tuple[dict[Any, dict[str, Any]], list[Reject]]:
    """The memories by id, as they would be loaded, and what would be set aside."""
    source = SourceFile(path)
    schema = survey(source).schema
    rows: dict[Any, dict[str, Any]] = {}
    aside: list[Reject] = []
    for _, part in read_slices(source, schema.nodes, (None, 2**62), 10, 10**9):
        found = convert_rows(part, schema)
        aside += found.rejects
        for position, key in enumerate(found.rows.keys):
            columns = zip(schema.nodes.columns, found.columns, strict=True)
            rows[key] = {column.target: values[position] for column, values in columns}
    return rows, aside + convert_strays(source.read(lambda c: read_strays(c, schema.nodes)))


@pytest.mark.parametrize("kind", FAILING)
def test_a_value_that_does_not_compute_is_set_aside_alone(path: Path, kind: str) -> None:
    column, instead, statements = FAILING[kind]
    rows, (entry,) = read_and_judged(failing(path, statements))
    assert (entry.id, entry.part, entry.reason) == (7, column, f"{column}: it does not compute: malformed JSON")
    assert entry.row["text"] == "memory 7"
    assert {key: row["text"] for key, row in rows.items()} == {row["id"]: row["text"] for row in NODES}
    assert {key: row[column] for key, row in rows.items()} == {n: n if n != 7 else instead for n in range(1, 31)}


def test_a_row_whose_computed_id_fails_is_set_aside_and_the_others_keep_theirs(path: Path) -> None:
    number = "CAST(json_extract(affect_json, '$.mood') AS INTEGER)"
    made = of_nodes("TABLE", f"{PLAIN}, id INTEGER AS ({number})", PLAIN)
    rows, (entry,) = read_and_judged(failing(path, made))
    assert {key: row["text"] for key, row in rows.items()} == {n: f"memory {n}" for n in range(1, 31) if n != 7}
    assert (entry.part, entry.row["text"]) == ("row", "memory 7")
    assert entry.reason == "its id does not compute: malformed JSON"


def test_a_view_whose_ids_do_not_all_compute_is_refused_with_what_to_do(path: Path) -> None:
    make_memory(path, "3.0", nodes=[node(n, affect_json="no JSON") for n in (1, 2)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE memory_nodes RENAME TO old_nodes")
        connection.execute(f"CREATE VIEW memory_nodes AS SELECT {MOOD} AS id, text FROM old_nodes")
    with pytest.raises(SourceError, match=r"the column id of the view memory_nodes.* name the copy with --source"):
        survey(SourceFile(path))


@pytest.mark.parametrize("expression", ["load_extension(who)", "snippet(who)", "count(*)", "(SELECT 1)"])
def test_a_generated_column_that_sqlite_refuses_is_left_out_and_is_not_nothing(path: Path, expression: str) -> None:
    """SQLite takes NULL for it once it passes over definitions."""
    make_memory(path, "3.0", nodes=NODES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        declare(connection, "summary TEXT", f"summary TEXT, extra GENERATED ALWAYS AS ({expression})")
    found = survey(SourceFile(path))
    assert "extra" not in column_names(found.schema.nodes)
    named = {each.name: each.why for each in found.left_out}
    assert named["memory_nodes.extra"] == f"a generated column: SQLite {sqlite3.sqlite_version} refuses its expression"


def test_a_value_of_a_row_that_comes_later_and_does_not_compute_is_known_as_that(path: Path) -> None:
    make_memory(
        path,
        "3.0",
        nodes=[node(1, affect_json='{"mood": 5}')],
        schema=["ALTER TABLE memory_nodes ADD COLUMN extra GENERATED ALWAYS AS (json_extract(affect_json, '$.mood'))"],
    )
    source = SourceFile(path)
    nodes = survey(source).schema.nodes
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:  # the expression is not checked here
        connection.create_function("json_extract", 2, lambda *_: None, deterministic=True)
        insert(connection, "memory_nodes", [node(2, affect_json="neutral"), node(3, affect_json='{"mood": 7}')])
    rows = [row for _, part in read_slices(source, nodes, (None, 10), 10, 10_000) for row in part.values]
    extra = column_names(nodes).index("extra")
    assert [(row[0], row[extra]) for row in rows] == [(1, 5), (2, Uncomputed("malformed JSON")), (3, 7)]


def test_tables_in_capitals_are_not_left_out(path: Path) -> None:
    make_memory(path, "3.0", nodes=NODES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE memory_nodes RENAME TO other")
        connection.execute("ALTER TABLE other RENAME TO Memory_NODES")
        connection.execute("CREATE TABLE MEMORY_NÖDES (id)")
    found = survey(SourceFile(path))
    assert {table.name for table in found.left_out} >= {"MEMORY_NÖDES"}
    assert "Memory_NODES" not in {table.name for table in found.left_out}
    assert found.nodes.rows == 30


@pytest.mark.parametrize("kind", HARMLESS)
def test_values_unused_pages_and_newer_definitions_are_no_damage(path: Path, kind: str) -> None:
    make_memory(path, "3.0", nodes=NODES, edges=EDGES, turns=TURNS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        HARMLESS[kind](connection)
    source = SourceFile(path)
    found = survey(source)
    assert found.nodes.rows == 30
    assert damage(source, found.schema) == []
    assert unclaimed(source) == []


def test_unused_pages_that_hold_rows_are_damage_with_their_number(path: Path) -> None:
    make_memory(path, "3.0", nodes=NODES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE scratch (a)")
        connection.executemany("INSERT INTO scratch VALUES (?)", [("x",)] * 17)
        forget(connection, "scratch")
    (line,) = unclaimed(SourceFile(path))
    assert line.endswith("never used, and holds 17 rows")


def test_an_unused_page_with_the_rest_of_a_long_row_is_damage(path: Path) -> None:
    """As where the page before it went back to what it was, and the row is gone without an error."""
    make_memory(path, "3.0", nodes=NODES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE scratch (a)")
        connection.execute("INSERT INTO scratch VALUES (?)", ("long " * 1_500,))
        forget(connection, "scratch")
    lines = unclaimed(SourceFile(path))
    assert [line.split("holds ")[1] for line in lines] == ["1 row", "a part of a row"]
