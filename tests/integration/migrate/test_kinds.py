"""More inputs of kinds that public bug reports are about, each a small memory: every memory arrives, the rest is named.

Most kinds have their inputs where their rule is tested; here are those of which that was too little.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.arrival import assert_arrived, parts
from support.memories import (
    Run,
    assert_same,
    edge,
    insert,
    make_memory,
    migrate,
    migrate_smoothly,
    node,
    read_quarantine,
    read_target,
    turn,
    vector,
)
from support.torture import staging_of, target_of
from test_structure import read_and_judged

from nimad.errors import ExitCode, RefusedError
from nimad.events.run import Analyzed
from nimad.sample import create_schema
from nimad.source.quick_check import damage, unclaimed
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.sqlite"


def change_all(path: Path, statements: Iterable[str]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def left_out(run: Run) -> set[str]:
    return {name for name, _, _ in run.only(Analyzed).left_out}


# Files whose texts are UTF-16

TEXT = "Grüße {} 🦉 汉字 \0 end"


def in_utf16(path: Path, encoding: str, statements: Iterable[str]) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        create_schema(connection, "3.0")
        connection.execute('ALTER TABLE memory_nodes ADD COLUMN "größe" BLOB')
        rows = [node(key, text=TEXT.format(key), who="Zoë", größe="schön" if key % 2 else b"\xff") for key in range(13)]
        insert(connection, "memory_nodes", rows)
        insert(connection, "memory_edges", [edge(key, key, key + 1, relation="führt zu") for key in range(1, 12)])
        insert(connection, "memory_turns", [turn(key, key, None, key + 1) for key in range(1, 12)])
        for statement in statements:
            connection.execute(statement)
    return path


#: By what is odd: the file's encoding, what is done to the rows, and what is set aside of them.
UTF16: dict[str, tuple[str, list[str], set[tuple[str, int, str]]]] = {
    "half a pair of surrogates alone": (
        "UTF-16le",
        [
            "UPDATE memory_nodes SET text = CAST(x'3dd80000' AS TEXT) || 'x' WHERE id = 7",
            "UPDATE memory_nodes SET summary = CAST(x'00d8' AS TEXT) WHERE id = 8",
        ],
        {("memory_nodes", 8, "summary")},
    ),
    "halves in a layer and a turn, the high byte first": (
        "UTF-16be",
        [
            "UPDATE memory_nodes SET layer = CAST(x'd800' AS TEXT) WHERE id = 3",
            "UPDATE memory_turns SET turn_id = 'a' || CAST(x'd83d' AS TEXT) WHERE id = 4",
        ],
        {("memory_nodes", 3, "layer"), ("memory_turns", 4, "turn_id")},
    ),
    "values that do not fit": (
        "UTF-16be",
        [
            "UPDATE memory_nodes SET fe_score = '' WHERE id = 2",
            "UPDATE memory_nodes SET timestamp = '2026-03-04T05:06:07Z' WHERE id = 5",
            "UPDATE memory_nodes SET who = x'ff41' WHERE id = 6",
            "UPDATE memory_edges SET weight = 'ß' WHERE id = 1",
        ],
        {
            ("memory_nodes", 2, "fe_score"),
            ("memory_nodes", 5, "timestamp"),
            ("memory_nodes", 6, "who"),
            ("memory_edges", 1, "weight"),
        },
    ),
    "bytes of an odd number, and lists for embeddings": (
        "UTF-16le",
        [
            "UPDATE memory_nodes SET summary = CAST(x'410042' AS TEXT) WHERE id = 4",
            "UPDATE memory_nodes SET embedding = '[0.5, -1, 2e0]'",
        ],
        set(),
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", UTF16)
def test_a_file_in_another_encoding_arrives(path: Path, kind: str) -> None:
    encoding, statements, aside = UTF16[kind]
    run = migrate_smoothly(in_utf16(path, encoding, statements))
    there = assert_arrived(path, run.target)
    assert set(parts(run.target)) == aside
    assert run.result.exit_code == (ExitCode.QUARANTINED if aside else ExitCode.COMPLETE)
    assert (len(there.nodes), len(there.edges), len(there.links["has_output"])) == (13, 11, 11)
    assert (there.nodes[1]["text"], there.nodes[1]["größe"]) == (TEXT.format(1), "schön".encode())


# Moments by what the column is declared as


@pytest.mark.parametrize("declared", ["TEXT", "REAL", "DATETIME", ""])
def test_moments_are_read_whatever_their_column_is_declared_as(path: Path, declared: str) -> None:
    moments = [1_700_000_000_000, 1_700_000_000_000.75, "2026-03-04T05:06:07Z", "2026-03-04 05:06:07.25", "soon", None]
    schema = [f"CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY, text TEXT, timestamp {declared})"]
    rows = [{"id": key, "text": f"memory {key}", "timestamp": moment} for key, moment in enumerate(moments, 1)]
    found, aside = read_and_judged(make_memory(path, own_schema=True, schema=schema, nodes=rows))
    read = [1_700_000_000_000, 1_700_000_000_000, 1_772_600_767_000, 1_772_600_767_250, None, None]
    assert [row["timestamp"] for row in found.values()] == read
    assert [(entry.id, entry.part) for entry in aside] == [(key, "timestamp") for key in (2, 3, 4, 5)]
    assert aside[-1].reason == "timestamp: text of 4 characters where an integer belongs"


# Most of it would not arrive

#: Twenty memories of which eleven or more have no id that is theirs alone.
LOST: dict[str, tuple[str, list[Any]]] = {
    "one id for many": ("id INTEGER", [min(key, 9) for key in range(1, 21)]),
    "no id": ("id INTEGER", [key if key < 10 else None for key in range(1, 21)]),
    "the same texts of digits": ("id TEXT", [str(key % 8) for key in range(20)]),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", LOST)
def test_where_most_have_no_id_of_their_own_nothing_is_published(path: Path, kind: str) -> None:
    declared, ids = LOST[kind]
    schema = [f"CREATE TABLE memory_nodes ({declared}, text TEXT)"]
    rows = [{"id": key, "text": f"text {number}"} for number, key in enumerate(ids)]
    make_memory(path, own_schema=True, schema=schema, nodes=rows)
    lost = 20 - len(set(ids) - {None})
    assert lost > 10
    with pytest.raises(RefusedError, match=f"{lost} of 20 memories would be set aside whole, more than the 50%"):
        migrate(path)
    assert not target_of(path).exists()
    assert [entry["part"] for entry in read_quarantine(staging_of(path))] == ["row"] * lost


#: By what the rows without an id of their own are: equal in all columns, in one of 20 memories or eleven of them.
EQUAL: dict[str, tuple[str, list[Any], list[str]]] = {
    "no id, and one text": ("id INTEGER", [*range(9), *[None] * 11], ["a"] * 20),
    "no id, and two texts": ("id INTEGER", [*range(9), *[None] * 11], ["a", "b"] * 10),
    "one id and one text": ("id INTEGER", [*range(8), *[8] * 12], ["a"] * 20),
    "one text of digits": ("id TEXT", [*map(str, range(8)), *["8"] * 12], ["a"] * 20),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", EQUAL)
def test_rows_that_are_equal_are_counted_one_by_one(path: Path, kind: str) -> None:
    declared, ids, texts = EQUAL[kind]
    verify = "counts" if len(set(texts)) == 1 else "full"
    schema = [f"CREATE TABLE memory_nodes ({declared}, text TEXT)"]
    rows = [{"id": key, "text": text} for key, text in zip(ids, texts, strict=True)]
    make_memory(path, own_schema=True, schema=schema, nodes=rows)
    with pytest.raises(RefusedError, match="11 of 20 memories would be set aside whole, more than the 50%"):
        migrate(path)
    run = migrate(path, verify=verify, max_set_aside="100%")
    assert (run.result.migrated, run.result.quarantined, run.result.exit_code) == (9, 11, ExitCode.QUARANTINED)
    assert [entry["row"]["text"] for entry in run.quarantine].count("a") == texts[9:].count("a")
    again = migrate(path)
    assert (again.result.quarantined, again.quarantine) == (11, run.quarantine)


# Names in capitals


def renamed(path: Path, names: dict[str, str]) -> None:
    change_all(
        path,
        (
            statement
            for old, new in names.items()
            for statement in (f"ALTER TABLE {old} RENAME TO other", f'ALTER TABLE other RENAME TO "{new}"')
        ),
    )


CAPITALS = {"memory_nodes": "Memory_Nodes", "memory_edges": "MEMORY_EDGES", "memory_turns": "Memory_Turns"}
FILLED: dict[str, Any] = {
    "nodes": [node(key, embedding=vector(key, 1)) for key in range(1, 13)],
    "edges": [edge(key, key, key + 1) for key in range(1, 12)],
    "turns": [turn(key, key, key + 1, 12) for key in range(1, 12)],
}


def test_all_tables_in_capitals_arrive_and_none_is_left_out(path: Path) -> None:
    make_memory(path, "3.1", **FILLED)
    renamed(path, CAPITALS)
    run = migrate_smoothly(path)
    there = assert_same(path, run.target)
    assert (len(there.nodes), len(there.edges), len(there.turns)) == (12, 11, 11)
    assert (run.result.exit_code, run.quarantine) == (ExitCode.COMPLETE, [])
    assert not {name.lower() for name in left_out(run)} & CAPITALS.keys()


OTHER_CAPITALS = {
    "views": ["ALTER TABLE {0} RENAME TO old_{0}", 'CREATE VIEW "{1}" AS SELECT * FROM old_{0}'],
    "without rowids": [
        "ALTER TABLE {0} RENAME TO old_{0}",
        "CREATE TABLE [{1}] (ID INTEGER PRIMARY KEY, {2}) WITHOUT ROWID",
        "INSERT INTO {1} SELECT id, {2} FROM old_{0}",
    ],
    "with an index of their own": [
        "ALTER TABLE {0} RENAME TO other",
        "ALTER TABLE other RENAME TO `{1}`",
        "CREATE INDEX BY_{1} ON {1} ({2})",
    ],
}
SOME_COLUMNS = {
    "memory_nodes": "TEXT, Layer",
    "memory_edges": "SOURCE_ID, Target_Id",
    "memory_turns": "Turn_ID, Input_Node_Id",
}


@pytest.mark.parametrize("kind", OTHER_CAPITALS)
def test_tables_in_capitals_are_found_whatever_they_are(path: Path, kind: str) -> None:
    make_memory(path, "3.0", **FILLED)
    filled = (
        statement.format(old, new, SOME_COLUMNS[old])
        for old, new in CAPITALS.items()
        for statement in OTHER_CAPITALS[kind]
    )
    change_all(path, filled)
    source = SourceFile(path)
    found = survey(source)
    assert {name: table.rows for name, table in found.tables.items()} == dict(zip(CAPITALS, (12, 11, 11), strict=True))
    assert not {table.name.lower() for table in found.left_out} & CAPITALS.keys()
    assert (damage(source, found.schema), unclaimed(source)) == ([], [])


# Values that checks dislike


def test_declarations_that_were_edited_afterwards_keep_nothing_out(path: Path) -> None:
    schema = [
        "CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY, text TEXT, summary TEXT, who BLOB, timestamp BLOB)",
    ]
    rows: list[dict[str, Any]] = [
        {
            "id": key,
            "text": f"memory {key}",
            "summary": None if key in (3, 4) else "short",
            "who": key if key % 3 == 0 else "ada",
            "timestamp": str(1_760_000_000_000 + key) if key % 3 == 1 else 1_760_000_000_000 + key,
        }
        for key in range(1, 13)
    ]
    make_memory(path, own_schema=True, schema=schema, nodes=rows)
    edited = "replace(replace(replace(sql, 'who BLOB', 'who TEXT'), 'timestamp BLOB', 'timestamp INTEGER NOT NULL'),"
    change_all(
        path,
        [
            "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_master SET sql = {edited} 'summary TEXT', 'summary TEXT NOT NULL')",
        ],
    )
    run = migrate_smoothly(path)
    assert (run.result.exit_code, run.quarantine) == (ExitCode.COMPLETE, [])
    there = read_target(run.target).nodes
    for row in rows:
        got = there[row["id"]]
        assert (got["summary"], got["who"]) == (row["summary"], str(row["who"]))
        assert got["timestamp"] == 1_760_000_000_000 + row["id"]


# Tables whose columns have all names of the rowid

#: By what tells the rows apart: the table, and its rows' own columns.
TAKEN: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "a column called like the rowid": ("rowid TEXT, oid, _rowid_", [{"rowid": f"r{n}"} for n in range(12)]),
    "nothing": ("rowid TEXT, oid, _rowid_, number INT", [{"rowid": None, "number": 1} for _ in range(12)]),
    "a primary key that may be NULL": (
        "rowid TEXT PRIMARY KEY, oid, _rowid_",
        [{"rowid": f"r{n}" if n > 3 else None} for n in range(12)],
    ),
    "a primary key that is an integer": (
        "node INTEGER PRIMARY KEY, rowid, oid, _rowid_",
        [{"node": 10 * n, "rowid": "all the same"} for n in range(12)],
    ),
    "an id that is none to SQLite": ("id TEXT, rowid, oid, _rowid_", [{"id": f"uuid-{n}"} for n in range(12)]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_rows_arrive_although_no_name_of_the_rowid_is_left(path: Path, kind: str) -> None:
    declared, rows = TAKEN[kind]
    schema = [f"CREATE TABLE memory_nodes ({declared}, timestamp INTEGER, layer TEXT, text TEXT)"]
    rows = [{**row, "timestamp": 1, "layer": "input", "text": f"text {number}"} for number, row in enumerate(rows)]
    make_memory(path, own_schema=True, schema=schema, nodes=rows)
    found, aside = read_and_judged(path)
    assert sorted(row["text"] for row in found.values()) == sorted(row["text"] for row in rows)
    assert aside == []
    assert read_and_judged(path)[0].keys() == found.keys(), "numbers stay from run to run"
    if "node" in rows[0]:
        assert sorted(found) == [row["node"] for row in rows]
