"""Defaults: a memory in the target passes the filters of the agent's readers, and what the agent adds does too."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import ladybug
import pytest
from releases import CHECKOUT
from support.commands import nimad
from support.environments import OLDEST, OURS, Environment, MakeEnvironment, opened
from support.memories import (
    DEFAULTS,
    assert_same,
    change,
    edge,
    make_memory,
    migrate,
    node,
    read_source,
    read_target,
    turn,
)
from support.torture import target_of
from test_rollback import counts, look

from nimad.events.run import Compacted, NotCompacted

#: What the agent's setup makes: columns with their types and defaults, and what its relationships join.
AGENT_TABLES = {
    "InsightNode": "id STRING, content STRING, type STRING, confidence FLOAT, sources STRING, domains STRING, "
    "timestamp STRING, importance FLOAT, validated BOOL",
    "PatternNode": "id STRING, name STRING, description STRING, occurrences INT64, domains STRING, examples STRING, "
    "first_seen STRING, last_seen STRING, strength DOUBLE",
    "DreamNode": "id STRING, date STRING, narrative STRING, source_count INT64, created_at STRING",
    "ProtocolNode": "id STRING, name STRING, rule STRING, domain STRING, priority INT64, trigger_keywords STRING, "
    "active INT64, created_at STRING, updated_at STRING",
}
JOINS = {
    "derived_from": {("InsightNode", "MemoryNode"), ("DreamNode", "MemoryNode")},
    "governs": {("ProtocolNode", "MemoryNode")},
}
SEEN = "MATCH (n:MemoryNode) WHERE n.is_ghost = false RETURN n.id ORDER BY n.id"


@pytest.fixture(scope="module")
def old(make_environment: MakeEnvironment) -> Environment:
    return make_environment(OLDEST, lend=["pyarrow"])


def plugins(folder: Path, *, count: int = 40) -> Path:
    """A memory that the plugin alone made: none of the columns of release 2.2."""
    return make_memory(folder / "graph.sqlite", "2.0", nodes=[node(key) for key in range(1, count + 1)])


def with_nulls(folder: Path) -> Path:
    """Three memories whose figures are NULL, and one with figures of its own."""
    empty: dict[str, Any] = dict.fromkeys([name for name in DEFAULTS if name != "recall_count"])
    own = {"strength": 0.25, "decay_rate": 0.5, "last_accessed": 7, "is_ghost": 1, "dismissal_count": 3}
    nodes = [*(node(key, **empty) for key in (1, 2, 3)), node(4, **own)]
    return make_memory(folder / "graph.sqlite", nodes=nodes, edges=[edge(1, 1, 2)], turns=[turn(1, 1)])


def asked(target: Path, cypher: str) -> list[list[Any]]:
    with opened(OURS, target) as ask:
        return ask(cypher)


# What the readers see


def test_a_memory_of_the_plugin_alone_is_seen_by_the_agents_readers(tmp_path: Path) -> None:
    run = migrate(plugins(tmp_path), reader_python=Path("none"))
    assert asked(run.target, SEEN) == [[key] for key in range(1, 41)]
    assert asked(run.target, "MATCH (n:MemoryNode {id: 7}) RETURN n.strength + 0.1, n.dismissal_count + 1") == [
        [1.1, 1]
    ]
    assert_same(tmp_path / "graph.sqlite", run.target)


def test_a_null_of_sqlite_is_what_the_agents_code_reads_for_it(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    run = migrate(source, reader_python=Path("none"))
    there = assert_same(source, run.target).nodes
    for name, default in DEFAULTS.items():
        assert [there[key][name] for key in (1, 2, 3)] == [default] * 3
    assert (there[4]["is_ghost"], there[4]["strength"], there[4]["dismissal_count"]) == (True, 0.25, 3)
    assert there[1]["summary"] is None, "any other NULL stays NULL"
    assert run.quarantine == []
    assert run.result.exit_code == 0


def test_a_null_in_a_table_that_is_not_the_nodes_stays_null(tmp_path: Path) -> None:
    ghosts = [f"ALTER TABLE memory_{name} ADD COLUMN is_ghost INTEGER" for name in ("edges", "turns")]
    source = make_memory(
        tmp_path / "graph.sqlite", nodes=[node(1)], edges=[edge(1, 1, 1)], turns=[turn(1, 1)], schema=ghosts
    )
    there = read_target(migrate(source, reader_python=Path("none")).target)
    assert (there.edges[1]["is_ghost"], there.turns[1]["is_ghost"]) == (None, None)


def test_what_the_agent_adds_has_the_defaults_too_after_a_compaction_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimad.migration.compact.SMALL_FILE", 0)
    monkeypatch.setattr("nimad.migration.compact.WORTHWHILE", 1.0)
    source = plugins(tmp_path, count=200)
    run = migrate(source, batch_size=40, fixed_batch=True, reader_python=Path("none"))
    assert run.all(Compacted)
    assert run.all(NotCompacted) == []
    with opened(OURS, run.target, read_only=False) as ask:
        ask("CREATE (:MemoryNode {id: 900, text: 'made since'})")
        names = list(DEFAULTS)
        wanted = ", ".join(f"n.{name}" for name in names)
        assert ask(f"MATCH (n:MemoryNode {{id: 900}}) RETURN {wanted}") == [list(DEFAULTS.values())]
        assert [900] in ask(SEEN)


@pytest.mark.long
def test_the_oldest_engine_fills_in_the_same_with_and_without_arrow(
    tmp_path: Path, old: Environment, make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimad.migration.compact.SMALL_FILE", 0)
    monkeypatch.setattr("nimad.migration.compact.WORTHWHILE", 1.0)
    for name, environment in {"arrow": old, "parameters": make_environment(OLDEST)}.items():
        (folder := tmp_path / name).mkdir()
        source = plugins(folder, count=120)
        run = migrate(source, batch_size=40, fixed_batch=True, reader_python=environment.python)
        assert run.all(NotCompacted) == []
        assert_same(source, run.target)
        with opened(environment.engine("real_ladybug"), run.target, read_only=False) as ask:
            ask("CREATE (:MemoryNode {id: 900})")
            ask("CREATE (:DreamNode {id: 'dream_1', source_count: 3})")
            ask("MATCH (d:DreamNode), (n:MemoryNode {id: 1}) CREATE (d)-[:derived_from]->(n)")
            assert len(ask(SEEN)) == 121
            assert ask("MATCH (:DreamNode)-[r:derived_from]->(n:MemoryNode) RETURN n.id") == [[1]]


@pytest.mark.parametrize("engine", ["ours", "the oldest"])
def test_a_compaction_keeps_what_others_put_into_a_file(tmp_path: Path, old: Environment, engine: str) -> None:
    """What a replaced target alone held is in the new one when that loses its holes."""
    its = OURS if engine == "ours" else old.engine("real_ladybug")
    file, copy = tmp_path / "file", tmp_path / "copy"
    with opened(its, file, read_only=False) as ask:
        ask("CREATE NODE TABLE MemoryNode(id INT64 PRIMARY KEY, mine STRING, strength DOUBLE DEFAULT 1.0)")
        ask("CREATE NODE TABLE InsightNode(id STRING PRIMARY KEY, content STRING)")
        ask("CREATE NODE TABLE DreamNode(id STRING PRIMARY KEY, kind STRING DEFAULT 'a dream', words STRING[])")
        ask("CREATE REL TABLE derived_from(FROM InsightNode TO MemoryNode, FROM DreamNode TO MemoryNode, why STRING)")
        ask("CREATE (:MemoryNode {id: 1, mine: 'ours'}), (:InsightNode {id: 'i', content: 'tea'})")
        ask("CREATE (:DreamNode {id: 'd', words: ['sea', 'salt']})")
        ask("MATCH (i:InsightNode), (n:MemoryNode) CREATE (i)-[:derived_from {why: 'said'}]->(n)")
        ask("MATCH (d:DreamNode), (n:MemoryNode) CREATE (d)-[:derived_from]->(n)")
    code = (
        "import sys, importlib.util\nfrom importlib import import_module\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(CHECKOUT)!r})\nfrom nimad.target import compact_file, row_counts\n"
        "from nimad.target.database import EngineLimits\nrow_counts._QUERIES = {}\n"
        "compact_file.compact(import_module(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), "
        "EngineLimits(1 << 28, 1 << 34, 2))"
    )
    subprocess.run(
        [its.python, "-c", code, its.module, file, copy],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    with opened(its, copy, read_only=False) as ask:
        assert ask("MATCH (n:MemoryNode) RETURN n.id, n.mine, n.strength") == [[1, "ours", 1.0]]
        assert ask("MATCH (d:DreamNode) RETURN d.id, d.kind, d.words") == [["d", "a dream", ["sea", "salt"]]]
        assert ask("MATCH (i:InsightNode)-[r:derived_from]->(n:MemoryNode) RETURN i.id, r.why, n.id") == [
            ["i", "said", 1]
        ]
        assert ask("MATCH (d:DreamNode)-[r:derived_from]->(n:MemoryNode) RETURN d.id, r.why, n.id") == [["d", None, 1]]
        ask("CREATE (:DreamNode {id: 'later'})")
        assert ask("MATCH (d:DreamNode {id: 'later'}) RETURN d.kind") == [["a dream"]]


# Said once


def test_the_plan_says_how_many_had_no_value(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    said = "3 memories had no is_ghost: false, as the agent reads it"
    dry = nimad(tmp_path, "migrate", "--source", source, "--dry-run")
    assert dry.out.count(said) == 1
    done = nimad(tmp_path, "migrate", "--source", source)
    assert done.out.count(said) == 1
    assert "3 memories had no decay_rate: 0.01, as the agent reads it" in done.out
    report = nimad(tmp_path, "report", "--target", target_of(source), "--json")
    assert ["is_ghost", False, 3] in json.loads(report.out)["defaults"]
    assert nimad(tmp_path, "report", "--target", target_of(source)).code == 0
    page = target_of(source).with_name("graph.ladybug.report.html").read_text()
    assert "3 memories had no is_ghost (false)" in page


def test_a_column_that_is_not_there_is_lacking_in_every_memory(tmp_path: Path) -> None:
    done = nimad(tmp_path, "migrate", "--source", plugins(tmp_path), "--dry-run")
    assert "40 memories had no is_ghost: false, as the agent reads it" in done.out


def test_nothing_is_said_of_what_nothing_lacks(tmp_path: Path) -> None:
    given = {name: value for name, value in DEFAULTS.items() if name != "recall_count"}
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, **given)])
    assert "as the agent reads it" not in nimad(tmp_path, "migrate", "--source", source, "--dry-run").out


# Who knows the rule


def test_a_default_is_no_difference_and_nothing_to_carry_back(tmp_path: Path) -> None:
    for made in (with_nulls, plugins):
        (folder := tmp_path / made.__name__).mkdir()
        source = made(folder)
        migrate(source, reader_python=Path("none"))
        before = source.read_bytes()
        compared = nimad(folder, "verify", "--source", source)
        assert compared.code == 0, compared.out
        assert nimad(folder, "health", "--source", source).code == 0
        found = look(source)
        assert not found.writes
        assert counts(found.kept) == {}
        assert source.read_bytes() == before


def test_a_rollback_leaves_the_nulls_of_a_memory_whose_text_the_agent_changed(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    target = migrate(source, reader_python=Path("none")).target
    with opened(OURS, target, read_only=False) as ask:
        ask("MATCH (n:MemoryNode {id: 1}) SET n.summary = 'in short'")
    done = nimad(tmp_path, "rollback", "--source", source, "--apply")
    assert done.code == 0, done.out
    row = read_source(source).nodes[1]
    assert row["summary"] == "in short"
    assert {row[name] for name in DEFAULTS if name in row} == {None}


@pytest.mark.long
def test_a_recall_of_a_memory_whose_figures_were_null_is_carried_back(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    target = migrate(source, reader_python=Path("none")).target
    with opened(OURS, target, read_only=False) as ask:
        ask("MATCH (n:MemoryNode {id: 2}) SET n.strength = 0.75, n.last_accessed = 99")
    assert nimad(tmp_path, "rollback", "--source", source, "--apply").code == 0
    row = read_source(source).nodes[2]
    assert (row["strength"], row["last_accessed"], row["is_ghost"]) == (0.75, 99, None)


@pytest.mark.long
def test_a_row_that_changes_during_the_run_is_brought_up_to_date_with_its_defaults(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    run = migrate(source, reader_python=Path("none"))
    change(source, "UPDATE memory_nodes SET is_ghost = NULL, summary = 'new' WHERE id = 4")
    assert_same(source, migrate(source, replace=True, reader_python=Path("none")).target)
    assert run.result.exit_code == 0


# The agent's own tables


def test_the_agents_tables_are_there_as_its_setup_makes_them(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    target = migrate(source, reader_python=Path("none")).target
    for table, columns in AGENT_TABLES.items():
        rows = asked(target, f"CALL table_info('{table}') RETURN name, type")
        assert [f"{name} {kind}" for name, kind in rows] == columns.split(", ")
    for table, joins in JOINS.items():
        found = asked(target, f"CALL show_connection('{table}') RETURN *")
        assert {(row[0], row[1]) for row in found} == joins


def test_what_the_agent_puts_there_troubles_no_command(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    target = migrate(source, reader_python=Path("none")).target
    with opened(OURS, target, read_only=False) as ask:
        ask("CREATE (:InsightNode {id: 'i1', content: 'tea helps', confidence: 0.5})")
        ask("MATCH (i:InsightNode), (n:MemoryNode {id: 1}) CREATE (i)-[:derived_from]->(n)")
        ask("CREATE (:ProtocolNode {id: 'p1', name: 'be brief'})")
        assert ask("MATCH (p:ProtocolNode) RETURN p.domain, p.priority, p.trigger_keywords, p.active") == [
            ["general", 3, "[]", 1]
        ]
    assert nimad(tmp_path, "health", "--source", source).code == 0
    found = look(source)
    assert counts(found.kept) == {"InsightNode": 1, "ProtocolNode": 1, "derived_from": 1}
    assert not found.writes


def test_a_target_without_the_agents_tables_still_works(tmp_path: Path) -> None:
    source = with_nulls(tmp_path)
    target = migrate(source, reader_python=Path("none")).target
    with ladybug.Database(str(target)) as database, ladybug.Connection(database) as connection:
        for table in (*JOINS, *AGENT_TABLES):
            connection.execute(f"DROP TABLE {table}")
    assert nimad(tmp_path, "verify", "--source", source).code == 0
    assert nimad(tmp_path, "health", "--source", source).code == 0
    assert not look(source).writes
