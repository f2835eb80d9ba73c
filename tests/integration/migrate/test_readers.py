"""Who reads the memory: the agent's engine is found, written for, and has opened the file before it is published.

Every engine is the real one of the package index, in an environment of its own; what it reads is held against SQLite
by rules that share nothing with nimad's own verification.
"""

import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ladybug
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.commands import nimad
from support.environments import (
    ENGINES,
    NAMESAKE,
    OLDEST,
    OURS,
    Engine,
    Environment,
    MakeEnvironment,
    alone,
    opened,
    put,
    read_with,
    top_level,
)
from support.memories import (
    ENGINE_LIMITS,
    Run,
    assert_same,
    edge,
    make_memory,
    migrate,
    migrate_smoothly,
    node,
    read_target,
    same_value,
    turn,
    vector,
)
from support.torture import assert_nothing_left, staging_of, state_of, target_of
from test_engine import Environment as Installation

from nimad.engines import probe_script, selection
from nimad.errors import EngineError, ExitCode, UsageError
from nimad.events.run import BatchLoaded, EngineChosen, Event, NothingToDo, Published, ReaderChecked
from nimad.source.batch import Batch
from nimad.source.schema import ValueKind
from nimad.target.database import Database
from nimad.target.destination import Destination

INT64 = (-(2**63), 2**63 - 1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without an agent, and a system without an engine, whatever the machine has."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setattr(selection, "_SYSTEM", tmp_path / "no-python")
    return path


def agents(home: Path) -> Path:
    """Where the agent's environment is looked for first."""
    place = home / ".openclaw/workspace/.venv"
    place.parent.mkdir(parents=True)
    return place


@pytest.fixture(scope="module")
def old(make_environment: MakeEnvironment) -> Environment:
    """A reader as nima-core 3.1 has it. Without pyarrow, which it does not need."""
    return make_environment(OLDEST)


@pytest.fixture(scope="module")
def all_engines(make_environment: MakeEnvironment, old: Environment) -> dict[str, Engine]:
    """Every release in the table of who opens what; ours is the newest."""
    made = {"0.15.3": old.engine("real_ladybug")}
    for requirement, module in list(ENGINES.items())[1:-1]:
        made[requirement.partition("==")[2]] = make_environment(requirement).engine(module)
    return {**made, "0.22.0": OURS}


# A memory of everything that is easily lost on the way

TEXTS = (
    "",
    " ",
    "a\0b",
    "\0",
    '{"a": 0.5}',
    '{"a": {"b": [1, null, true]}}',
    "{a: 1}",
    "{}",
    "[1, 2]",
    "[]",
    '["x", "y"]',
    "[1, [2, 3]]",
    "2026-01-31",
    "2026-01-31 12:00:00",
    "2026-01-31T12:00:00.123456Z",
    "3 days 2 hours",
    "007",
    "1",
    "-0",
    "1e3",
    "9223372036854775808",
    "0.1",
    "nan",
    "Infinity",
    "true",
    "False",
    "NULL",
    "null",
    "None",
    "550e8400-e29b-41d4-a716-446655440000",
    "\\xAA\\xBB",
    "\\n \\u0041 \\",
    "line\nline\r\n\ttab",
    "'single' \"double\" `back`",
    "$rows row.c0",
    "🙂 👩‍👩‍👧‍👦 é é 記憶 עברית \u202e \ufeff \U0010ffff",
    "map(1, 2)",
    "{1: 2}",
)
DOUBLES = (0.0, -0.0, 0.1, 1.0, -1.5, 1e308, 5e-324, float("inf"), float("-inf"), 1 / 3)
WHOLE = (INT64[0] + 1, INT64[1], 0, -1, 1, 2**31, 2**53 + 1)
NAN, INF = float("nan"), float("inf")
VECTORS = (vector(0.0, -0.0, 1.5), vector(NAN, INF, -INF), vector(1e-45, 3.4e38, 1 / 3), vector(-1.0, 1.0, NAN))
BLOBS = (b"", b"\0", b"\xff\xfe\0\x80", bytes(range(256)), b"text", b"\\xAA")
LARGE = ("memory ⁂ " * 100_000)[: 1024**2]


def everything(path: Path) -> Path:
    """Each value in each kind of column, alone in its row and among others, and rows of nothing but NULLs."""
    columns: dict[str, Sequence[Any]] = {
        "text": TEXTS,
        "affect_json": TEXTS[::-1],
        "my_text": TEXTS[3:],
        "fe_score": DOUBLES,
        "strength": DOUBLES[::-1],
        "last_accessed": WHOLE,
        "my_number": WHOLE[::-1],
        "is_ghost": (0, 1),
        "embedding": VECTORS,
        "my_blob": BLOBS,
        "created_at": ("2026-01-31 12:00:00", "never"),
    }
    names = list(columns)
    alone = [{name: value} for name, values in columns.items() for value in values]
    mixed = [{name: columns[name][i % len(columns[name])] for name in names} for i in range(30)]
    half = [
        {name: row[name] for position, name in enumerate(names) if (i >> position) & 1} for i, row in enumerate(mixed)
    ]
    large = [{"text": LARGE}, {"text": LARGE[::-1], "summary": LARGE}, {"text": "\0" * 1024**2}]
    rows = [*alone, *mixed, *half, {}, *large]
    empty = {"timestamp": None, "layer": None, "text": None}
    ids = [INT64[0] + 1, *range(-2, len(rows) - 4), INT64[1]]
    return make_memory(
        path,
        # The smallest INT64 is left to a test of its own, and later releases have NOT NULL where old files have NULLs.
        own_schema=True,
        schema=[
            "CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY, timestamp INTEGER, layer TEXT, text TEXT, "
            "summary TEXT, who TEXT, affect_json TEXT, fe_score REAL, embedding BLOB, strength REAL, "
            "last_accessed INTEGER, is_ghost INTEGER, created_at TEXT, my_text TEXT, my_number INTEGER, my_blob BLOB)",
            "CREATE TABLE memory_edges (id INTEGER PRIMARY KEY, source_id INTEGER, target_id INTEGER, relation TEXT, "
            "weight REAL, created_at TEXT, mine TEXT)",
            "CREATE TABLE memory_turns (id INTEGER PRIMARY KEY, turn_id TEXT, input_node_id INTEGER, "
            "contemplation_node_id INTEGER, output_node_id INTEGER, timestamp INTEGER, affect_json TEXT, "
            "created_at TEXT)",
        ],
        nodes=[node(key, **empty) | row for key, row in zip(ids, rows, strict=True)],
        edges=[
            *(edge(i, ids[i % 7], ids[i % 11], relation=text, weight=DOUBLES[i % 10]) for i, text in enumerate(TEXTS)),
            edge(INT64[0] + 1, ids[0], ids[-1], relation=None, weight=None),
            edge(INT64[1], 1, 1, relation=None, weight=0.5, mine="[1, 2]"),
            edge(1_000, 1, 2, relation="twice"),
            edge(1_001, 1, 2, relation="twice"),
        ],
        turns=[
            *(turn(i, ids[i], ids[-i], None, affect_json=text) for i, text in enumerate(TEXTS)),
            turn(INT64[0] + 1, ids[0], ids[0], ids[0], turn_id=None, timestamp=None),
            turn(INT64[1], turn_id="{}", timestamp=INT64[1]),
        ],
    )


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, make_environment: MakeEnvironment, old: Environment
) -> dict[str, Run]:
    """A memory of everything as written for the old reader in its own interpreter: by parameters, and by Arrow."""
    source = everything(tmp_path_factory.mktemp("everything") / "graph.sqlite")
    with_arrow = make_environment(OLDEST, lend=["pyarrow"])
    return {
        how: migrate(source, target=source.with_name(how), reader_python=environment.python, batch_size=100)
        for how, environment in {"parameters": old, "arrow": with_arrow}.items()
    }


@pytest.mark.long
def test_without_parquet_in_pyarrow_large_rows_wait_in_memory(
    tmp_path: Path, make_environment: MakeEnvironment
) -> None:
    environment = make_environment(lend=["ladybug"])
    (place,) = (path for path in top_level("pyarrow") if path.name == "pyarrow")
    (environment.packages / "pyarrow").mkdir()
    for part in place.iterdir():
        if not part.name.startswith("_parquet"):  # as in pyarrow-core of conda-forge
            (environment.packages / "pyarrow" / part.name).symlink_to(part)
    put(next(path for path in top_level("pyarrow") if path.suffix == ".dist-info"), environment.packages)
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, text="x" * 3_000_000) for key in (1, 2, 3)])
    run = migrate_smoothly(source, reader_python=environment.python, engine_python=environment.python)
    assert_same(source, run.target)
    assert state_of(run.target)["versions"]["engine"]["folder"].startswith(str(environment.folder))


@pytest.mark.sampled
@pytest.mark.parametrize("reader", [requirement.partition("==")[2] for requirement in ENGINES])
@pytest.mark.parametrize("how", ["parameters", "arrow"])
def test_what_is_written_for_the_old_reader_is_read_by_every_engine(
    written: dict[str, Run], all_engines: dict[str, Engine], how: str, reader: str
) -> None:
    run = written[how]
    assert run.result.exit_code == ExitCode.COMPLETE, run.quarantine
    source = run.target.with_name("graph.sqlite")
    there = assert_same(source, run.target, there=read_with(all_engines[reader], run.target))
    assert len(there.nodes) > 200
    assert_nothing_left(run.target)


def test_the_old_reader_is_written_for_in_its_own_interpreter(written: dict[str, Run], old: Environment) -> None:
    run = written["parameters"]
    chosen = run.only(EngineChosen)
    reader = f"real_ladybug 0.15.3 of {old.python} (storage version 40)"
    assert (chosen.engine, chosen.storage_version) == (f"real_ladybug 0.15.3 of {old.python}", 40)
    assert chosen.why == "the newest engine here whose files every reader opens"
    assert chosen.readers == [reader]
    checked = run.only(ReaderChecked)
    assert (checked.reader, checked.nodes) == (reader, run.result.migrated)
    assert [type(event) for event in run.events].index(ReaderChecked) < [type(e) for e in run.events].index(Published)
    versions = state_of(run.target)["versions"]
    facts = {"module": "real_ladybug", "version": "0.15.3", "storage_version": 40}
    assert versions["readers"] == [{"python": str(old.python), **facts}]
    assert versions["engine"]["name"] == "real_ladybug"
    assert (versions["engine"]["version"], versions["engine"]["storage_version"]) == ("0.15.3", 40)


def test_the_log_says_who_reads_and_with_what_it_is_written(tmp_path: Path, home: Path, old: Environment) -> None:
    memory(tmp_path / "graph.sqlite")
    done = nimad(tmp_path, "migrate", "--source", "graph.sqlite", "--reader-python", old.python, HOME=str(home))
    assert done.code == 0, done.err
    assert f"[INFO] Reader: real_ladybug 0.15.3 of {old.python} (storage version 40)\n" in done.log
    assert (
        f"[INFO] Writing with real_ladybug 0.15.3 of {old.python} (storage version 40): "
        "the newest engine here whose files every reader opens\n"
    ) in done.log
    opens = (
        f"[INFO] The reader opens it and counts 30 nodes: real_ladybug 0.15.3 of {old.python} (storage version 40)\n"
    )
    assert opens in done.log
    assert done.log.index(opens) < done.log.index("Published: ")


# What the agent asks


def memory(path: Path, nodes: int = 30) -> Path:
    """An ordinary memory."""
    people = ("Ada", "Zoë", None)
    return make_memory(
        path,
        nodes=[
            node(
                key,
                timestamp=1_700_000_000_000 + key * 1_000,
                who=people[key % 3],
                text=f"Entry {key}: {'tea with ⁂' if key % 4 else 'a telescope'}",
                summary=None if key % 5 else f"telescope no. {key}",
                strength=key / nodes,
                embedding=vector(key, -key, 0.5),
            )
            for key in range(1, nodes + 1)
        ],
        edges=[
            edge(key, key, key % nodes + 1, weight=key / 7, relation="triggered" if key % 2 else "responded_to")
            for key in range(1, nodes + 1)
        ],
        turns=[turn(key, key, key + 1, None) for key in range(1, nodes // 2)],
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, old: Environment) -> Path:
    """A finished target, beside its source."""
    source = memory(tmp_path_factory.mktemp("asked") / "graph.sqlite")
    return migrate(source, reader_python=old.python).target


@pytest.mark.sampled
@pytest.mark.parametrize("reader", [requirement.partition("==")[2] for requirement in ENGINES])
def test_every_engine_answers_what_the_agent_asks_as_sqlite_does(
    asked: Path, all_engines: dict[str, Engine], reader: str
) -> None:
    with closing(sqlite3.connect(asked.with_name("graph.sqlite"))) as sqlite, opened(all_engines[reader], asked) as ask:

        def assert_equal(cypher: str, sql: str, **values: Any) -> None:
            wanted = [list(row) for row in sqlite.execute(sql, values)]
            assert wanted, "a question without an answer would show nothing"
            assert ask(cypher, **values) == wanted

        assert_equal(
            "MATCH (n:MemoryNode) WHERE (n.text CONTAINS $q OR n.summary CONTAINS $q) AND n.timestamp >= $t "
            "RETURN n.id, n.text, n.summary, n.timestamp ORDER BY n.timestamp DESC LIMIT 10",
            "SELECT id, text, summary, timestamp FROM memory_nodes "
            "WHERE (instr(text, :q) OR instr(summary, :q)) AND timestamp >= :t ORDER BY timestamp DESC LIMIT 10",
            q="telescope",
            t=1_700_000_007_000,
        )
        assert_equal(
            "MATCH (n:MemoryNode {who: $w}) RETURN n.id, n.strength ORDER BY n.id",
            "SELECT id, strength FROM memory_nodes WHERE who = :w ORDER BY id",
            w="Zoë",
        )
        assert_equal(
            "MATCH (n:MemoryNode {id: $i})-[r:relates_to]-(m:MemoryNode) RETURN m.id, r.weight, r.relation "
            "ORDER BY m.id",
            "SELECT CASE source_id WHEN :i THEN target_id ELSE source_id END AS other, weight, relation "
            "FROM memory_edges WHERE :i IN (source_id, target_id) ORDER BY other",
            i=7,
        )
        assert_equal("MATCH (n:MemoryNode) RETURN max(n.id)", "SELECT max(id) FROM memory_nodes")
        assert_equal(
            "MATCH (t:Turn)-[:has_contemplation]->(n:MemoryNode) WHERE t.turn_id = $t RETURN t.id, n.id",
            "SELECT id, contemplation_node_id FROM memory_turns WHERE turn_id = :t",
            t="turn_3",
        )


@pytest.mark.sampled
@pytest.mark.parametrize("reader", [requirement.partition("==")[2] for requirement in ENGINES])
def test_every_engine_goes_on_writing_as_the_agent_does(
    asked: Path, all_engines: dict[str, Engine], reader: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(asked, tmp_path))
    with opened(all_engines[reader], copy, read_only=False) as ask:
        new = ask("MATCH (n:MemoryNode) RETURN max(n.id)")[0][0] + 1
        assert new == 31
        ask(
            "CREATE (n:MemoryNode {id: $i, timestamp: $t, layer: 'input', text: $x, who: 'Ada', strength: 1.0, "
            "decay_rate: 0.01, is_ghost: false, dismissal_count: 0})",
            i=new,
            t=1_800_000_000_000,
            x="made since",
        )
        ask(
            "MATCH (a:MemoryNode {id: $a}), (b:MemoryNode {id: $b}) "
            "CREATE (a)-[:relates_to {relation: 'triggered', weight: 0.25}]->(b)",
            a=new,
            b=1,
        )
        ask(
            "MATCH (n:MemoryNode {id: $i}) CREATE (t:Turn {id: $i, turn_id: 'turn_31', timestamp: 1})"
            "-[:has_input]->(n)",
            i=new,
        )
        ask(
            "MATCH (n:MemoryNode {id: 7}) SET n.strength = $s, n.decay_rate = $d, n.last_accessed = $t",
            s=0.75,
            d=0.125,
            t=1_800_000_000_001,
        )
    with opened(all_engines[reader], copy) as ask:
        assert ask("MATCH (n:MemoryNode {id: 7}) RETURN n.strength, n.decay_rate, n.last_accessed, n.text") == [
            [0.75, 0.125, 1_800_000_000_001, "Entry 7: tea with ⁂"]
        ]
        assert ask("MATCH (:MemoryNode {id: 31})-[r:relates_to]-(m:MemoryNode) RETURN m.id, r.weight, r.relation") == [
            [1, 0.25, "triggered"]
        ]
        assert ask("MATCH (t:Turn)-[:has_input]->(n:MemoryNode {id: 31}) RETURN t.turn_id, n.text, n.recall_count") == [
            ["turn_31", "made since", 0]
        ]
        assert ask("MATCH (n:MemoryNode) RETURN count(*)") == [[31]]


# A number that engines before 0.22 do not keep


def test_the_smallest_integer_keeps_no_memory_out_and_is_not_published_as_another(
    tmp_path: Path, old: Environment
) -> None:
    """Among small numbers the engine stores it as 0, and says nothing."""
    nodes = [node(1, last_accessed=INT64[0]), node(2, last_accessed=5)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes)
    run = migrate(source, reader_python=old.python)
    assert [(line["id"], line["part"]) for line in run.quarantine] == [(1, "last_accessed")]
    assert [node["last_accessed"] for node in read_target(run.target).nodes.values()] == [0, 5]


# Engines that do not go together


def test_nothing_is_published_that_the_reader_cannot_open_and_the_older_engine_is_a_way_out(
    tmp_path: Path, make_environment: MakeEnvironment
) -> None:
    """The reader's Python is too old for a worker, and no other engine is here."""
    source = memory(tmp_path / "graph.sqlite")
    reader = make_environment(OLDEST, at=agents(tmp_path))
    reader.at_start("import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    ours = installation(tmp_path / "nimad")

    refused = ours.nimad(tmp_path, "migrate", "--source", source)
    assert refused.code == ExitCode.ENGINE, refused.err
    message = refused.error
    assert message.startswith(
        f"the reader real_ladybug 0.15.3 of {reader.python} (storage version 40) cannot open what ladybug 0.22.0 "
        "(storage version 49) writes. Either upgrade the reader: "
    )
    assert "name it with --reader-python" in message
    assert not target_of(source).exists()
    assert not staging_of(source).exists()

    older = message.partition("; or write with the older engine: ")[2].partition(", then run again")[0]
    assert older == f"{ours.python} -P -m pip install 'real-ladybug==0.15.3'"
    ours.shell(older)
    refreshed = ours.nimad(tmp_path, "migrate", "--source", source)
    assert (refreshed.code, refreshed.err) == (0, "")
    assert_same(source, target_of(source), there=read_with(reader.engine("real_ladybug"), target_of(source)))
    assert state_of(target_of(source))["versions"]["engine"]["storage_version"] == 40


def installation(folder: Path) -> Installation:
    """An installation of nimad with today's engine and no other."""
    made = Installation(folder)
    for place in top_level("ladybug"):
        put(place, made.packages)
    return made


@pytest.mark.long
def test_an_engine_that_was_asked_for_is_refused_until_the_reader_is_upgraded(
    tmp_path: Path, make_environment: MakeEnvironment
) -> None:
    source = memory(tmp_path / "graph.sqlite")
    reader = make_environment(OLDEST, at=tmp_path / "agent", lend=["pip"], own=True)
    with pytest.raises(
        EngineError, match=r"0\.15\.3 .* version 40\) cannot open what ladybug 0\.22\.0 .* 49\)"
    ) as refused:
        migrate(source, reader_python=reader.python, engine="ladybug")
    message = str(refused.value)
    assert "write with the older engine: run again without --engine and --engine-python" in message
    assert {path.name for path in tmp_path.iterdir()} <= {"graph.sqlite", "graph.ladybug.lock", "home", "agent"}
    ran = migrate(source, reader_python="none", engine="ladybug", verify="none")
    assert ran.only(EngineChosen).readers == []
    assert ran.all(ReaderChecked) == []

    upgrade = message.partition("upgrade the reader: ")[2].partition(" (with a nima-core")[0]
    subprocess.run(upgrade, shell=True, check=True, capture_output=True, env=alone(os.environ))  # noqa: S602 - ours
    ran = migrate(source, reader_python=reader.python, engine="ladybug", replace=True)
    assert ran.only(EngineChosen).readers == [f"ladybug 0.22.0 of {reader.python} (storage version 49)"]
    assert_same(source, ran.target, there=read_with(reader.engine("ladybug"), ran.target))


@pytest.mark.long
def test_a_finished_target_that_a_reader_found_since_cannot_open(tmp_path: Path, home: Path, old: Environment) -> None:
    source = memory(tmp_path / "graph.sqlite")
    target = migrate(source, verify="none").target
    agents(home).symlink_to(old.folder)
    with pytest.raises(EngineError, match=r"is complete, but the reader real_ladybug 0\.15\.3 .*--replace") as refused:
        migrate(source)
    assert "what ladybug 0.22.0 wrote (storage version 49)" in str(refused.value)
    assert state_of(target)["versions"]["engine"]["storage_version"] == 49, "what is there is left alone"

    ran = migrate(source, replace=True)
    backup = ran.only(Published).backup
    assert backup is not None
    assert re.fullmatch(r"graph\.ladybug\.backup-\d{8}-\d{6}", Path(backup).name)
    assert_same(source, target, there=read_with(old.engine("real_ladybug"), target))
    assert_same(source, Path(backup))
    assert "is complete" in migrate(source).only(NothingToDo).why


@pytest.mark.long
def test_a_reader_that_was_named_once_is_asked_again(tmp_path: Path, old: Environment) -> None:
    """The commands that we print name the target and nothing else."""
    source = memory(tmp_path / "graph.sqlite")
    migrate(source, reader_python=old.python, verify="none")
    for _ in range(2):
        ran = migrate(source, verify="none", replace=True)
        assert state_of(ran.target)["versions"]["engine"]["storage_version"] == 40
        assert ran.only(ReaderChecked).reader.startswith("real_ladybug 0.15.3 of")
    ran = migrate(source, replace=True, reader_python="none", verify="none")
    assert state_of(ran.target)["versions"]["engine"]["storage_version"] == 49


# What is no reader


def test_the_namesake_is_told_of_and_not_run(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, make_environment: MakeEnvironment
) -> None:
    monkeypatch.undo()  # the command runs as a process, and asks the system's Python too
    reader = make_environment(NAMESAKE, at=agents(home))
    memory(tmp_path / "graph.sqlite")
    done = nimad(tmp_path, "migrate", "--source", "graph.sqlite", "--nodes-only", "--verify", "none", HOME=str(home))
    assert (done.code, done.err) == (0, "")
    assert (
        f"[WARN] Not taken for a reader: {reader.python}: its ladybug is ladybug-core 0.44.62, a weather-file library "
        "and no database\n"
    ) in done.log
    assert not (home / ".ladybug").exists(), "it would have been made by importing it"


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "its ladybug cannot be used (importing it ended with signal 6)"),
        ("import os; os._exit(0)", "its ladybug cannot be used (importing it ended with exit status 0)"),
        ("import sys; sys.exit(7)", "its ladybug cannot be used (importing it ended with exit status 7)"),
        ("import time; time.sleep(60)", "it did not answer within 3 seconds"),
        ("raise ImportError('libc too old')", "its ladybug cannot be used (ImportError: libc too old)"),
        ("import os; os.write(1, b'{garbage\\n'); print(1)", "its ladybug is another package and no database"),
    ],
    ids=["crashes", "leaves", "exits", "hangs", "cannot be imported", "prints"],
)
def test_a_package_that_is_no_engine_does_not_stop_the_run(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, make_environment: MakeEnvironment, code: str, said: str
) -> None:
    if "60" in code:
        monkeypatch.setattr(selection, "ASKING_S", 3.0)
    reader = make_environment(at=agents(home))
    reader.write("ladybug", code)
    assert what_is_unusable(tmp_path) == [f"{reader.python}: {said}"]


def what_is_unusable(folder: Path) -> list[str]:
    """What a run says of those that it does not take for readers. It writes nothing, but ends well."""
    source = make_memory(folder / "graph.sqlite", nodes=[node(1)])
    ran = migrate(source, dry_run=True)
    chosen = ran.only(EngineChosen)
    assert (chosen.engine, chosen.readers) == ("ladybug 0.22.0", [])
    assert ran.result.exit_code == ExitCode.COMPLETE
    return list(chosen.unusable)


def test_a_package_that_crashes_hides_no_engine_beside_it(
    tmp_path: Path, home: Path, make_environment: MakeEnvironment
) -> None:
    reader = make_environment(OLDEST, at=agents(home))
    reader.write("ladybug", "import os; os.abort()")
    ran = migrate(make_memory(tmp_path / "graph.sqlite", nodes=[node(1)]), dry_run=True)
    chosen = ran.only(EngineChosen)
    assert chosen.readers == [f"real_ladybug 0.15.3 of {reader.python} (storage version 40)"]
    assert list(chosen.unusable) == [
        f"{reader.python}: its ladybug cannot be used (importing it ended with signal 6)"
    ], "once"


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("#!/bin/sh\necho garbage\n", "its answer cannot be understood"),
        ("#!/bin/sh\necho '{}'; echo '{\"version\": 1}'\n", "its answer cannot be understood"),
        ("#!/bin/sh\necho '[1]'; echo 7\n", "its answer cannot be understood"),
        ("#!/bin/sh\nexit 3\n", "it ended with 3"),
        ("#!/bin/sh\nkill -9 $$\n", "it ended with -9"),
        ("#!/no/such/python\n", "it cannot be run (No such file or directory)"),
        ("\x7fELF of another machine", "it cannot be run (Exec format error)"),
    ],
    ids=["garbage", "half answers", "other answers", "fails", "is killed", "lacks its python", "no program"],
)
def test_what_is_no_interpreter_does_not_stop_the_run(tmp_path: Path, home: Path, program: str, said: str) -> None:
    python = agents(home) / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(program)
    python.chmod(0o755)
    assert set(what_is_unusable(tmp_path)) == {f"{python}: {said}"}


def test_a_reader_that_was_named_has_to_be_one(tmp_path: Path, make_environment: MakeEnvironment) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    for wrong in (tmp_path, tmp_path / "nothing", source):
        with pytest.raises(UsageError, match="is no program that can be run"):
            migrate(source, reader_python=wrong)
    empty = make_environment()
    ran = migrate(source, reader_python=empty.python, dry_run=True)
    assert list(ran.only(EngineChosen).unusable) == [f"{empty.python} has no engine"]


# The reader opens it before it is published


def test_a_reader_that_does_not_open_the_file_keeps_it_from_being_published(
    tmp_path: Path, home: Path, make_environment: MakeEnvironment
) -> None:
    source = memory(tmp_path / "graph.sqlite")
    reader = make_environment(at=agents(home), lend=["ladybug"], own=True)
    sound = (reader.packages / "ladybug/__init__.py").read_text()
    reader.append("ladybug", FAILS_TO_READ)
    heard: list[Event] = []
    with pytest.raises(EngineError) as refused:
        migrate(source, events=heard)
    message = str(refused.value)
    assert message.startswith(
        f"the reader ladybug 0.22.0 of {reader.python} (storage version 49) cannot open {staging_of(source)} (this "
        "machine's disk is not trusted), so nothing was published; what was written is kept. "
    )
    assert "Repair that interpreter and run again" in message
    assert [event for event in heard if isinstance(event, BatchLoaded)]
    assert not target_of(source).exists()
    assert state_of(target_of(source))["phase"] == "failed"
    kept = staging_of(source).stat().st_ino

    (reader.packages / "ladybug/__init__.py").write_text(sound)
    ran = migrate(source)
    assert [event for event in ran.all(BatchLoaded) if event.table != "memory_turns"] == []
    assert ran.only(ReaderChecked).nodes == 30
    assert ran.target.stat().st_ino == kept, "what was written then is what is published now"
    assert_same(source, ran.target)
    assert_nothing_left(ran.target)


FAILS_TO_READ = """
_Sound = Database
class Database(_Sound):
    def __init__(self, *words, read_only=False, **limits):
        if read_only:
            raise RuntimeError("this machine's disk\\n is not trusted")
        super().__init__(*words, **limits)
"""


def test_a_reader_that_counts_otherwise_keeps_it_from_being_published(
    tmp_path: Path, home: Path, make_environment: MakeEnvironment
) -> None:
    source = memory(tmp_path / "graph.sqlite")
    reader = make_environment(at=agents(home), lend=["ladybug"], own=True)
    reader.append("ladybug", COUNTS_ONE_LESS)
    with pytest.raises(EngineError, match=r"counts \{'MemoryNode': 29, .* counts \{'MemoryNode': 30, .*--restart"):
        migrate(source)
    assert not target_of(source).exists()


COUNTS_ONE_LESS = """
_Sound = Connection
class Connection(_Sound):
    def execute(self, query, *words):
        return super().execute(query.replace("count(*)", "count(*) - 1"), *words)
"""


# The program that runs in somebody else's interpreter


def test_the_guest_asks_for_nothing_that_an_old_python_lacks() -> None:
    tree = ast.parse(Path(probe_script.__file__).read_text(), feature_version=(3, 8))
    imported = {
        name
        for each in ast.walk(tree)
        for name in (
            [alias.name for alias in each.names]
            if isinstance(each, ast.Import)
            else [each.module or "."]
            if isinstance(each, ast.ImportFrom)
            else []
        )
    }
    assert imported
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


# By parameters

_TEXT = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(TEXTS))
_VALUES: dict[ValueKind, st.SearchStrategy[Any]] = {
    ValueKind.INT64: st.integers(*INT64),
    ValueKind.DOUBLE: st.floats(allow_nan=False),
    ValueKind.STRING: _TEXT,
    ValueKind.BOOL: st.sampled_from([0, 1]),
    ValueKind.BLOB: st.binary(max_size=40),
    ValueKind.VECTOR: st.lists(st.floats(width=32), min_size=3, max_size=3).map(lambda floats: vector(*floats)),
}
_KINDS = list(_VALUES)
_ROWS = st.lists(st.tuples(*(st.none() | _VALUES[kind] for kind in _KINDS)), max_size=8)


@contextmanager
def empty_database() -> Iterator[Database]:
    """A database of ours without Arrow. One for each example: what others left in it fills the engine's pool."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ladybug.Database(f"{folder}/graph.ladybug", **ENGINE_LIMITS)) as opened_database,
        closing(ladybug.Connection(opened_database)) as connection,
    ):
        made = Database(connection)
        made.has_arrow = False
        types = ", ".join(f"c{i} {'FLOAT[3]' if kind is ValueKind.VECTOR else kind}" for i, kind in enumerate(_KINDS))
        made.run(f"CREATE NODE TABLE T(id INT64 PRIMARY KEY, {types})")
        made.run(f"CREATE REL TABLE R(FROM T TO T, {types})")
        yield made


_NAMES = [f"c{i}" for i in range(len(_KINDS))]


def batch_of(rows: Sequence[Sequence[Any]], *ids: Sequence[int]) -> Batch:
    kinds = [*[ValueKind.INT64] * len(ids), *_KINDS]
    return Batch(kinds, [*ids, *([row[i] for row in rows] for i in range(len(_KINDS)))], 3)


def assert_rows(database: Database, pattern: str, key: str, rows: Sequence[Sequence[Any]]) -> None:
    names = ", ".join(f"n.{name}" for name in _NAMES)
    columns = database.columns(f"MATCH {pattern} RETURN {names} ORDER BY {key}", _KINDS)
    got = list(zip(*columns, strict=True))
    wanted = [
        [bool(v) if k is ValueKind.BOOL and v is not None else v for k, v in zip(_KINDS, row, strict=True)]
        for row in rows
    ]
    assert len(got) == len(wanted)
    for there, here in zip(got, wanted, strict=True):
        assert all(same_value(one, other) for one, other in zip(there, here, strict=True)), (there, here)


@pytest.mark.long
@given(rows=_ROWS, later=_ROWS)
@hypothesis_settings(max_examples=15, deadline=None)
def test_rows_come_back_as_they_went_in_by_parameters(
    rows: list[tuple[Any, ...]], later: list[tuple[Any, ...]]
) -> None:
    with empty_database() as database:
        assert_they_come_back(database, rows, later)


def assert_they_come_back(
    database: Database, rows: Sequence[tuple[Any, ...]], later: Sequence[tuple[Any, ...]]
) -> None:
    ids = list(range(len(rows)))
    if rows:
        database.copy(Destination("T", ["id", *_NAMES]), batch_of(rows, ids))
        database.copy(Destination("R", _NAMES, ("T", "T")), batch_of(rows, ids, ids[::-1]))
    assert_rows(database, "(n:T)", "n.id", rows)
    assert_rows(database, "(a:T)-[n:R]->(:T)", "a.id", rows)
    changed = later[: len(rows)]
    if changed:
        database.update(Destination("T", ["id", *_NAMES]), batch_of(changed, ids[: len(changed)]))
    assert_rows(database, "(n:T)", "n.id", [*changed, *rows[len(changed) :]])
