"""What only the agent's own SQLite has, and tables of other shapes: every memory arrives, and what does not is named.

The memories are written here with the agent's functions and collations; the oracle is what was put in.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.memories import Run, edge, insert, make_memory, migrate_smoothly, node, read_target, turn, vector

from nimad.events.run import Analyzed

NODES = [
    node(
        n,
        layer=("input", "Input", "output")[n % 3],
        who=("ada", "Ada", None)[n % 3],
        turn_id=f"t{n // 3}",
        affect_json=json.dumps({"mood": n}),
        embedding=vector(n, 1),
    )
    for n in range(1, 31)
]
EDGES = [edge(n, n, n + 1, relation="produced" if n % 2 else "triggered", weight=n / 8) for n in range(1, 21)]
TURNS = [turn(n, n, n + 1, n + 2) for n in range(1, 11)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.sqlite"


def agent(path: Path) -> sqlite3.Connection:
    """A connection with what only the agent has."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in ("AGENT_NOCASE", "agent's own order"):
        connection.create_collation(name, lambda a, b: (a.lower() > b.lower()) - (a.lower() < b.lower()))
    connection.create_function("fold_text", 1, lambda text: text and text.lower(), deterministic=True)
    return connection


def remade(path: Path, *changes: tuple[str, str], more: Iterable[str] = ()) -> Path:
    """The memory of 2.2's tables with other declarations: regular expressions and what takes their place."""
    make_memory(path, "3.0")
    with closing(agent(path)) as connection:
        texts = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE name GLOB 'memory_[net]*[sd]'"))
        for name in ("memory_nodes", "memory_edges", "memory_turns"):
            text = texts[name]
            for old, new in changes:
                text = re.sub(old, new, text)
            connection.execute(f"DROP TABLE {name}")
            connection.execute(text)
        for statement in more:
            connection.execute(statement)
        for table, rows in {"memory_nodes": NODES, "memory_edges": EDGES, "memory_turns": TURNS}.items():
            insert(connection, table, rows)
    return path


def left_out(run: Run) -> dict[str, str]:
    return {name: why for name, _, why in run.only(Analyzed).left_out if not name.startswith("memory_fts")}


def assert_all_arrived(run: Run) -> None:
    there = read_target(run.target)
    assert (run.result.exit_code, run.quarantine) == (0, [])
    assert_nodes(there.nodes)
    edges = {(row["source_id"], row["target_id"]): (row["relation"], row["weight"]) for row in there.edges.values()}
    assert edges == {(row["source_id"], row["target_id"]): (row["relation"], row["weight"]) for row in EDGES}
    assert_turns(there.turns, there.links)


def assert_nodes(rows: dict[int, dict[str, Any]]) -> None:
    wanted = {row["id"]: row for row in NODES}
    assert sorted(rows) == sorted(wanted)
    for key, row in wanted.items():
        assert {name: rows[key][name] for name in row} == row


def assert_turns(rows: dict[int, dict[str, Any]], links: dict[str, list[tuple[int, int]]]) -> None:
    assert sorted(row["turn_id"] for row in rows.values()) == sorted(row["turn_id"] for row in TURNS)
    for end, link in {"input_node_id": "has_input", "output_node_id": "has_output"}.items():
        drawn = {rows[key]["turn_id"]: number for key, number in links[link]}
        assert drawn == {row["turn_id"]: row[end] for row in TURNS}


# Collations of the agent's own

COLLATIONS: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "of two columns and their indexes": (
        [("layer TEXT", "layer TEXT COLLATE AGENT_NOCASE"), ("who TEXT", "who TEXT COLLATE AGENT_NOCASE")],
        ["CREATE INDEX my_who ON memory_nodes (who)", "CREATE INDEX my_layer ON memory_nodes (layer)"],
    ),
    "with a name in quotes": (
        [("layer TEXT", 'layer TEXT COLLATE "agent\'s own order"')],
        ["CREATE INDEX my_layer ON memory_nodes (layer)"],
    ),
    "of an index alone": ([], ["CREATE INDEX my_layer ON memory_nodes (layer COLLATE AGENT_NOCASE)"]),
    "of a primary key without rowids": (
        [
            (r"CREATE TABLE memory_turns\s*\([\s\S]*", "CREATE TABLE memory_turns (turn_id TEXT COLLATE AGENT_NOCASE "
            "PRIMARY KEY, input_node_id INTEGER, contemplation_node_id INTEGER, output_node_id INTEGER, "
            "timestamp INTEGER, id INTEGER) WITHOUT ROWID"),
        ],
        [],
    ),
}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("kind", COLLATIONS)
def test_a_collation_that_only_the_agent_has_keeps_nothing_out(path: Path, kind: str) -> None:
    changes, more = COLLATIONS[kind]
    run = migrate_smoothly(remade(path, *changes, more=more))
    assert_all_arrived(run)
    assert run.only(Analyzed).layers == {"input": 10, "Input": 10, "output": 10}
    assert left_out(run) == {}


# Generated columns

GENERATED: dict[str, tuple[str, str | None]] = {
    "by a function of the agent's": ("extra TEXT GENERATED ALWAYS AS (fold_text(who)) VIRTUAL", "fold_text"),
    "by a collation of the agent's": ("extra GENERATED ALWAYS AS (who = 'ADA' COLLATE AGENT_NOCASE)", "AGENT_NOCASE"),
    "stored, by a function of the agent's": ("extra TEXT GENERATED ALWAYS AS (fold_text(who)) STORED", None),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", GENERATED)
def test_a_generated_column_that_has_no_value_here_is_left_out_alone_and_by_name(path: Path, kind: str) -> None:
    column, why = GENERATED[kind]
    remade(path, (r"who TEXT", f"who TEXT, {column}"))
    run = migrate_smoothly(path)
    there = read_target(run.target)
    assert (run.result.exit_code, run.quarantine, len(there.nodes)) == (0, [], 30)
    if why is None:
        assert left_out(run) == {}
        assert [row["extra"] for row in there.nodes.values()] == [row["who"] and "ada" for row in NODES]
        return
    assert why in left_out(run)["memory_nodes.extra"]
    assert "extra" not in there.types["MemoryNode"]
    assert there.nodes[7]["affect_json"] == '{"mood": 7}'


MOOD = "json_extract(affect_json, '$.mood')"
EXTRA = f"extra AS ({MOOD})"


def of_nodes(kind: str, columns: str, values: str = "", rest: str = "") -> tuple[str, ...]:
    """Statements that put the memories into a table, or view, of these columns."""
    moved = "ALTER TABLE memory_nodes RENAME TO old_nodes"
    if kind == "VIEW":
        return moved, f"CREATE VIEW memory_nodes AS SELECT {columns} FROM old_nodes"
    filled = f"INSERT INTO memory_nodes SELECT {values} FROM old_nodes"
    return moved, f"CREATE TABLE memory_nodes ({columns}) {rest}", filled, "DROP TABLE old_nodes"


PLAIN = "timestamp, layer, text, who, turn_id, affect_json, embedding"
#: By what a column is: its name, what stands in place of a value that it lacks, and the statements that make it.
FAILING: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "generated": ("extra", None, (f"ALTER TABLE memory_nodes ADD COLUMN {EXTRA}",)),
    "generated, and never NULL": ("extra", None, (f"ALTER TABLE memory_nodes ADD COLUMN {EXTRA} NOT NULL",)),
    "generated, of a known name": (
        "strength",
        1.0,
        of_nodes("TABLE", f"id INTEGER PRIMARY KEY, {PLAIN}, strength REAL AS ({MOOD})", f"id, {PLAIN}"),
    ),
    "of a table without an id": ("extra", None, of_nodes("TABLE", f"{PLAIN}, {EXTRA}", PLAIN)),
    "of a table without rowids": (
        "extra",
        None,
        of_nodes("TABLE", f"id INTEGER PRIMARY KEY, {PLAIN}, {EXTRA}", f"id, {PLAIN}", "WITHOUT ROWID"),
    ),
    "of a view": ("extra", None, of_nodes("VIEW", f"id, {PLAIN}, {MOOD} AS extra")),
    "of a view without an id": ("extra", None, of_nodes("VIEW", f"id AS node_id, {PLAIN}, {MOOD} AS extra")),
    "of a view of two tables": (
        "extra",
        None,
        (
            "CREATE TABLE more_nodes AS SELECT * FROM memory_nodes WHERE id > 9",
            "DELETE FROM memory_nodes WHERE id > 9",
            "ALTER TABLE memory_nodes RENAME TO old_nodes",
            f"CREATE VIEW memory_nodes AS SELECT id, {PLAIN}, {MOOD} AS extra FROM old_nodes "
            f"UNION ALL SELECT id, {PLAIN}, {MOOD} FROM more_nodes",
        ),
    ),
    "of a view, of a known name": ("strength", 1.0, of_nodes("VIEW", f"id, {PLAIN}, {MOOD} AS strength")),
}


def unchecked(connection: sqlite3.Connection, table: str) -> None:
    """Let row 7 have what its expressions fail over, as where another program, or an older one, wrote it."""
    connection.create_function("json_extract", -1, lambda *_: 0, deterministic=True)
    connection.execute(f"UPDATE {table} SET affect_json = 'neutral' WHERE text = 'memory 7'")


def failing(path: Path, statements: Iterable[str]) -> Path:
    make_memory(path, "3.0", nodes=NODES, edges=EDGES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        has_old = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'old_nodes'").fetchone()[0]
        unchecked(connection, "old_nodes" if has_old else "memory_nodes")
    return path


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["generated, of a known name", "of a view without an id"])
def test_a_memory_with_a_value_that_does_not_compute_arrives(path: Path, kind: str) -> None:
    column, instead, statements = FAILING[kind]
    run = migrate_smoothly(failing(path, statements))
    there = read_target(run.target)
    (entry,) = run.quarantine
    assert (run.result.exit_code, entry["table"], entry["id"], entry["part"]) == (1, "memory_nodes", 7, column)
    assert (there.nodes[7]["text"], there.nodes[7][column]) == ("memory 7", instead)
    assert (len(there.nodes), len(there.edges)) == (30, len(EDGES))
    assert not [name for name in left_out(run) if name.startswith("memory_nodes")]


def test_an_end_and_a_link_that_do_not_compute_are_one_edge_and_one_link(path: Path) -> None:
    make_memory(path, "3.0", nodes=NODES, edges=EDGES, turns=TURNS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in ("edges", "turns"):
            connection.execute(f"ALTER TABLE memory_{name} RENAME TO old_{name}")
        failing = "iif(created_at = 'bad', json_extract('no', '$'), {}) AS {}"
        connection.execute(
            f"CREATE VIEW memory_edges AS SELECT id, {failing.format('source_id', 'source_id')}, target_id, relation, "
            "weight FROM old_edges"
        )
        connection.execute(
            f"CREATE VIEW memory_turns AS SELECT id, turn_id, {failing.format('input_node_id', 'input_node_id')}, "
            "output_node_id, timestamp FROM old_turns"
        )
        connection.execute("UPDATE old_edges SET created_at = 'bad' WHERE id = 3")
        connection.execute("UPDATE old_turns SET created_at = 'bad' WHERE id = 4")
    run = migrate_smoothly(path)
    there = read_target(run.target)
    assert {(entry["table"], entry["id"], entry["part"]) for entry in run.quarantine} == {
        ("memory_edges", 3, "row"),
        ("memory_turns", 4, "has_input"),
    }
    assert (len(there.nodes), len(there.edges), len(there.turns)) == (30, len(EDGES) - 1, len(TURNS))


@pytest.mark.sampled
@pytest.mark.parametrize("function", ["json_extract(affect_json, '$.mood')", "affect_json ->> '$.mood'"])
def test_what_is_computed_by_a_path_into_json_arrives(path: Path, function: str) -> None:
    """SQLite up to 3.40 does not vouch for these functions of its own."""
    run = migrate_smoothly(remade(path, (r"who TEXT", f"who TEXT, extra GENERATED ALWAYS AS ({function})")))
    assert_all_arrived(run)
    assert [row["extra"] for row in read_target(run.target).nodes.values()] == [row["id"] for row in NODES]


def test_a_function_of_the_agents_in_an_index_and_a_check_keeps_nothing_out(path: Path) -> None:
    more = ["CREATE INDEX folded ON memory_nodes (fold_text(text))", "CREATE INDEX some ON memory_nodes (who) WHERE fold_text(who) = 'ada'"]  # fmt: skip  # noqa: E501
    run = migrate_smoothly(remade(path, ("summary TEXT", "summary TEXT CHECK (fold_text(summary) <> 'no')"), more=more))
    assert_all_arrived(run)
    assert left_out(run) == {}


# Tables that have neither an id nor a rowid


def without_ids(path: Path, *statements: str) -> Path:
    """The same memory, its rows in tables of other shapes: each statement makes one from `old_…`."""
    make_memory(path, "3.0", nodes=NODES, edges=EDGES, turns=TURNS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in ("memory_nodes", "memory_edges", "memory_turns"):
            connection.execute(f"ALTER TABLE {name} RENAME TO old_{name.removeprefix('memory_')}")
        for statement in statements:
            connection.execute(statement)
        for name in ("memory_nodes", "memory_edges", "memory_turns"):
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
                connection.execute(f"CREATE VIEW {name} AS SELECT * FROM old_{name.removeprefix('memory_')}")
    return path


TURNS_BY_NAME = (
    "CREATE TABLE memory_turns (turn_id TEXT PRIMARY KEY, input_node_id INTEGER, contemplation_node_id INTEGER, "
    "output_node_id INTEGER, timestamp INTEGER) WITHOUT ROWID",
    "INSERT INTO memory_turns SELECT turn_id, input_node_id, contemplation_node_id, output_node_id, timestamp "
    "FROM old_turns",
)
EDGES_BY_ENDS = (
    "CREATE TABLE memory_edges (source_id INTEGER, target_id INTEGER, relation TEXT, weight REAL, "
    "PRIMARY KEY (source_id, target_id, relation)) WITHOUT ROWID",
    "INSERT INTO memory_edges SELECT source_id, target_id, relation, weight FROM old_edges",
)
COLUMNS = "timestamp, layer, text, who, turn_id, affect_json, embedding"
NODES_BY_NUMBER = (
    f"CREATE TABLE memory_nodes (node_id INTEGER PRIMARY KEY, {COLUMNS}) WITHOUT ROWID",
    f"INSERT INTO memory_nodes SELECT id, {COLUMNS} FROM old_nodes",
)
SHAPES = {
    "turns by their turn_id": TURNS_BY_NAME,
    "edges by their ends": EDGES_BY_ENDS,
    "nodes by a number of another name": NODES_BY_NUMBER,
    "nodes in a view": (f"CREATE VIEW memory_nodes AS SELECT id AS node_id, {COLUMNS} FROM old_nodes",),
    "edges in a view": ("CREATE VIEW memory_edges AS SELECT source_id, target_id, relation, weight FROM old_edges",),
    "turns in a view": (
        "CREATE VIEW memory_turns AS SELECT turn_id, input_node_id, output_node_id, timestamp FROM old_turns",
    ),
    "turns with a text called rowid": (
        "CREATE TABLE memory_turns (rowid TEXT, turn_id TEXT, input_node_id INTEGER, output_node_id INTEGER)",
        "INSERT INTO memory_turns SELECT 'r' || id, turn_id, input_node_id, output_node_id FROM old_turns",
    ),
}


@pytest.mark.sampled
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_without_an_id_and_without_a_rowid_all_arrive(path: Path, shape: str) -> None:
    run = migrate_smoothly(without_ids(path, *SHAPES[shape]))
    assert_all_arrived(run)
    assert not {"rowid", "number"} & set(read_target(run.target).types["MemoryNode"])


@pytest.mark.long
def test_the_number_of_a_row_stays_whatever_comes_before_it(path: Path) -> None:
    without_ids(path, *TURNS_BY_NAME, *EDGES_BY_ENDS)
    first = read_target(migrate_smoothly(path).target)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO memory_turns (turn_id, input_node_id) VALUES ('a first one', 5)")
        connection.execute("INSERT INTO memory_edges VALUES (-5, 0, 'dangling', 1), (1, 1, 'a first one', 1)")
    again = read_target(migrate_smoothly(path, replace=True).target)
    for key, row in first.turns.items():
        assert again.turns[key]["turn_id"] == row["turn_id"]
    for key, row in first.edges.items():
        assert (again.edges[key]["source_id"], again.edges[key]["relation"]) == (row["source_id"], row["relation"])
    assert (len(again.turns), len(again.edges)) == (11, 21)


def test_rows_that_a_view_does_not_tell_apart_arrive_each(path: Path) -> None:
    make_memory(path, "3.0", nodes=NODES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE memory_nodes RENAME TO old_nodes")
        connection.execute("UPDATE old_nodes SET turn_id = NULL, layer = 'input', timestamp = 5")
        connection.execute("CREATE VIEW memory_nodes AS SELECT layer, timestamp, turn_id, text FROM old_nodes")
    run = migrate_smoothly(path)
    assert sorted(row["text"] for row in read_target(run.target).nodes.values()) == sorted(r["text"] for r in NODES)
    assert run.quarantine == []


# Names in capitals


# What checks say that is no damage


def no_nulls_declared(connection: sqlite3.Connection) -> None:
    declare(connection, "summary TEXT", "summary TEXT NOT NULL")


def a_text_declared(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE memory_nodes ADD COLUMN extra BLOB")
    connection.execute("UPDATE memory_nodes SET extra = id")
    declare(connection, "extra BLOB", "extra TEXT")


def numbers_declared(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE memory_nodes ADD COLUMN extra BLOB")
    connection.execute("UPDATE memory_nodes SET extra = '17'")
    declare(connection, "extra BLOB", "extra INTEGER")


def forget(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("DELETE FROM sqlite_master WHERE name = ?", (name,))
    connection.execute("PRAGMA writable_schema = RESET")


def an_unused_page(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE scratch (a)")
    forget(connection, "scratch")


def an_unused_index(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE INDEX scratch ON memory_nodes (text)")
    forget(connection, "scratch")


def an_emptied_table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE scratch (a)")
    connection.executemany("INSERT INTO scratch VALUES (?)", [("x" * 3_000,)] * 30)
    connection.execute("DELETE FROM scratch")
    forget(connection, "scratch")


def a_newer_index(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE INDEX newer ON memory_nodes (who)")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'who', 'who NEW ORDER') WHERE name = 'newer'")


def strict_declared(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE memory_nodes SET timestamp = 'soon', fe_score = 'high', summary = x'ff' WHERE id < 4")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = sql || ' STRICT' WHERE name = 'memory_nodes'")


def a_newer(kind: str, text: str) -> Callable[[sqlite3.Connection], None]:
    def arrange(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) VALUES (?, 'newer', ?, 0, ?)",
            (kind, "memory_nodes" if kind == "trigger" else "newer", text),
        )

    return arrange


def declare(connection: sqlite3.Connection, old: str, new: str) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'memory_nodes'", (old, new))
    connection.execute("PRAGMA writable_schema = RESET")


HARMLESS: dict[str, Callable[[sqlite3.Connection], None]] = {
    "no NULL is declared": no_nulls_declared,
    "a text is declared": a_text_declared,
    "a number is declared": numbers_declared,
    "strict is declared": strict_declared,
    "an unused page": an_unused_page,
    "the pages of an emptied table": an_emptied_table,
    "an unused index": an_unused_index,
    "a view of a newer SQLite": a_newer("view", "CREATE VIEW newer AS SELECT 1 FROM a SOME NEW JOIN b"),
    "a trigger of a newer SQLite": a_newer("trigger", "CREATE TRIGGER newer AFTER READ ON memory_nodes BEGIN END"),
    "a view with an order in a function": a_newer(
        "view", "CREATE VIEW newer AS SELECT group_concat(text, ' ' ORDER BY timestamp) FROM memory_nodes"
    ),
    "an index of a newer SQLite": a_newer_index,
    "a table of a newer SQLite": a_newer("table", "CREATE TABLE newer (id) WITHOUT ANYTHING, NEW"),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["an unused page", "a view of a newer SQLite", "no NULL is declared"])
def test_of_a_memory_without_damage_the_success_rate_is_known(path: Path, kind: str) -> None:
    make_memory(path, "3.0", nodes=NODES, edges=EDGES, turns=TURNS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        HARMLESS[kind](connection)
    assert_all_arrived(migrate_smoothly(path))
