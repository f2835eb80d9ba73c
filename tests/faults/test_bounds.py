"""Hostile files and programs, read within bounds: each ends in time, in little memory, and in a message."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.commands import environment, nimad
from support.following import agent
from support.memories import change, make_memory, migrate, node

from nimad.config import Settings, read_openclaw
from nimad.engines import interpreter
from nimad.engines.interpreter import Interpreter
from nimad.engines.selection import look_for_engines as engines_of
from nimad.errors import ConfigurationError, ExitCode, NimadError, SourceError, StoppedError, UsageError
from nimad.host import bounded
from nimad.host.disk import LOG_SUFFIXES
from nimad.rollback import rollback
from nimad.source import bounds
from nimad.source.header import check_source
from nimad.source.rows import Reject, read_ids
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey
from nimad.state import quarantine, run_history_reader, target_state
from nimad.state.left_out import left_out
from nimad.state.paths import Files, locked
from nimad.supervisor import worker_process
from nimad.worker.protocol import Job, Task

#: Signs that a terminal obeys, or that end or turn a line.
OBEYED = "\x1b[2J\x07\x9b1m\x85\u2028\u202e\u2066"
#: What every JSON output may hold none of.
RAW = {"\x1b", "\x07", "\x9b", "\x85", "\u2028", "\u202e", "\u2066"}


# SQLite


def endless_view(path: Path) -> Path:
    rows = "WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM r) SELECT id, 'x' AS text FROM r"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE VIEW memory_nodes AS {rows}")
    return path


def test_a_view_without_an_end_comes_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_BASE_STEPS", 2_000_000)
    with pytest.raises(NimadError, match="more steps to read than its size can need"):
        migrate(endless_view(tmp_path / "graph.sqlite"), dry_run=True)


def test_steps_are_counted_for_each_reading_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_BASE_STEPS", 200_000)
    monkeypatch.setattr(bounds, "_STEPS_PER_BYTE", 0)
    source = SourceFile(make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 40)]))
    for _ in range(20):
        survey(source)


def test_a_column_that_takes_few_and_long_steps_comes_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_BASE_S", 0.3)
    monkeypatch.setattr(bounds, "_S_PER_BYTE", 0)
    path = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 600)])
    long, longer = "hex(zeroblob(7500)) || id", "hex(zeroblob(15000))"
    change(path, f"ALTER TABLE memory_nodes ADD COLUMN extra INTEGER AS (instr({longer}, {long}))")
    with pytest.raises(SourceError, match="more steps to read than its size can need"):
        SourceFile(path).read(lambda connection: connection.execute("SELECT sum(extra) FROM memory_nodes").fetchone())


def test_a_value_that_is_computed_is_bounded_by_the_file(tmp_path: Path) -> None:
    column = "ALTER TABLE memory_nodes ADD COLUMN g GENERATED ALWAYS AS (hex(zeroblob(400000000)))"
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)], schema=[column])
    with pytest.raises(SourceError, match="computes a value that is far longer than the file"):
        SourceFile(source).read(lambda connection: read_all(connection, "SELECT length(g) FROM memory_nodes"))


def read_all(connection: sqlite3.Connection, query: str) -> list[object]:
    return connection.execute(query).fetchall()


def test_a_schema_is_not_trusted_and_the_heap_is_bounded(tmp_path: Path) -> None:
    source = SourceFile(make_memory(tmp_path / "graph.sqlite", nodes=[node(1)]))
    assert source.read(lambda connection: connection.execute("PRAGMA trusted_schema").fetchone()) == (0,)
    (heap,) = source.read(lambda connection: connection.execute("PRAGMA hard_heap_limit").fetchone())
    assert 0 < heap <= max(256 << 20, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


@pytest.mark.long
@pytest.mark.parametrize(
    "spied",
    [
        "SELECT load_extension('/tmp/of-the-agent.so')",
        "SELECT hex(fts3_tokenizer('simple'))",
        "SELECT rtreecheck('main', 'memory_nodes')",
        "SELECT nimad_cell('memory_nodes', 'text', 1)",
        "SELECT text FROM searched",
        "SELECT name FROM dbstat",
    ],
)
def test_a_function_that_only_the_agent_has_opens_no_other_door(tmp_path: Path, spied: str) -> None:
    """A stand-in makes the schema trusted, for Python cannot vouch for one function alone."""
    path = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIRTUAL TABLE searched USING fts5(text)")
        connection.execute("CREATE VIEW harmless AS SELECT json_type('[]') AS kind")
        connection.execute(f"CREATE VIEW spy AS {spied}")

    def spy(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT count(*) FROM memory_nodes WHERE id < 0 AND ours_of_the_agent(text)").fetchone()
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (1,)
        assert connection.execute("SELECT kind FROM harmless").fetchone() == ("array",)
        connection.execute("SELECT * FROM spy").fetchall()

    with pytest.raises(SourceError) as caught:
        SourceFile(path).read(spy)
    assert "takes more" not in str(caught.value)


def test_a_table_may_have_as_many_columns_as_sqlite_lets_it(tmp_path: Path) -> None:
    more = [f"ALTER TABLE memory_nodes ADD COLUMN c{number} TEXT" for number in range(1_955)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, c7="seven")], schema=more)
    assert survey(SourceFile(source)).nodes.rows == 1


def test_no_damaged_byte_of_a_schema_is_a_bug_of_ours(tmp_path: Path) -> None:
    """A name that is no UTF-8 makes Python raise an error of text, and not of a database."""
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)], journal="DELETE")
    whole = source.read_bytes()
    start = whole.index(b"CREATE TABLE memory_nodes")
    seen = set()
    for offset in range(start - 60, start + 400, 7):
        source.write_bytes(whole[:offset] + b"\xff" + whole[offset + 1 :])
        try:
            survey(SourceFile(source))
        except NimadError as error:
            seen.add(type(error).__name__)
    assert seen


def sparse_memory(path: Path, column: str) -> Path:
    """A memory of some kB in a file of 20 GB, of which the disk has as little."""
    source = make_memory(path, nodes=[node(1)], schema=[column])
    os.truncate(source, 20 * 10**9)
    return source


def test_holes_make_no_file_larger(tmp_path: Path) -> None:
    column = "ALTER TABLE memory_nodes ADD COLUMN g GENERATED ALWAYS AS (hex(zeroblob(400000000)))"
    source = SourceFile(sparse_memory(tmp_path / "graph.sqlite", column))
    with pytest.raises(SourceError, match="computes a value that is far longer than the file"):
        source.read(lambda connection: read_all(connection, "SELECT length(g) FROM memory_nodes"))


def test_a_trigger_without_an_end_comes_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_BASE_STEPS", 2_000_000)
    monkeypatch.setattr(bounds, "_STEPS_PER_BYTE", 0)
    rows = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    change(
        source, f"CREATE TRIGGER t AFTER INSERT ON memory_nodes BEGIN UPDATE memory_nodes SET summary = ({rows}); END"
    )
    run = migrate(source, reader_python=Path("none"))
    with agent(run.target) as connection:
        connection.execute("CREATE (:MemoryNode {id: 9, layer: 'input', turn_id: 'mine', text: 'own', timestamp: 5})")
    before = source.read_bytes()
    with pytest.raises(NimadError, match="takes more steps or memory than its size can need"):
        rollback.apply_rollback(Settings(source=source))
    assert source.read_bytes() == before
    assert run.target.exists()


# Small files


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 50_000,
        "[batch]\nsize = " + "9" * 5_000,
        "a" + ".a" * 20_000 + " = 1",
        f'[source]\npath = "{"/a" * 3_000}"',
    ],
    ids=["lists in lists", "digits", "dots", "a path"],
)
def test_no_settings_file_takes_the_memory_or_the_program_down(tmp_path: Path, text: str) -> None:
    (tmp_path / "nimad.toml").write_text(text)
    began = time.monotonic()
    done = nimad(tmp_path, "status", "--config", tmp_path / "nimad.toml")
    assert done.code in (ExitCode.CONFIGURATION, ExitCode.USAGE), done.err
    assert time.monotonic() - began < 20


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nested(path: Path) -> None:
    path.write_text("[" * 200_000)


@pytest.mark.sampled
@pytest.mark.parametrize("make", [pipe, sparse, device, nested])
def test_whatever_stands_at_a_name_of_ours_is_read_within_bounds(tmp_path: Path, make: Callable[[Path], None]) -> None:
    files = Files(tmp_path / "graph.ladybug")
    for path in (files.state, files.runs):
        make(path)
    assert target_state.read(files) == {}
    assert run_history_reader.read_history(files.runs) == []


@pytest.mark.parametrize("command", ["doctor", "clean"])
def test_a_record_that_is_all_holes_is_kept_and_not_read_to_its_end(tmp_path: Path, command: str) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    run = migrate(source, reader_python=Path("none"))
    record = run.target.with_name("graph.ladybug.rollback-20200101-000000.jsonl")
    record.touch()
    os.truncate(record, 10**11)
    began = time.monotonic()
    done = nimad(tmp_path, command, "--source", source, "--target", run.target)
    assert done.code != ExitCode.INTERNAL
    assert time.monotonic() - began < 30
    assert record.exists()


@pytest.mark.parametrize(("make", "why"), [(pipe, "not a plain"), (sparse, "holes"), (device, "not a plain")])
def test_openclaws_file_is_read_within_bounds(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    path = tmp_path / "openclaw.json"
    make(path)
    with pytest.raises(ConfigurationError, match=why):
        read_openclaw(path)


def test_json_with_comments_takes_no_time_and_endless_json5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    entries = '"nima-memory": {"database": {"backend": "ladybugdb", /* here */ "auto_migrate": true,},},'
    many = "".join(f'"plugin {number}": {{"a": [1, 2, /* {number} */ "//", ], }}, // no\n' for number in range(15_000))
    path.write_text(f'{{"plugins": {{"entries": {{{entries} {many}}}}}}}')
    began = time.process_time()
    assert read_openclaw(path).asks_for_migration
    path.write_text("{" + "a: 'b', " * 50_000 + "}")
    with pytest.raises(ConfigurationError, match="too long to be read as JSON5"):
        read_openclaw(path)
    assert time.process_time() - began < 10


def test_a_quarantine_with_a_line_that_does_not_end_is_read_and_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "LINE_BYTES", 1_000)
    path = tmp_path / "graph.ladybug.quarantine.jsonl"
    entry = b'{"table": "memory_nodes", "id": 1, "part": "row", "reason": "x"}\n'
    long = b'{"table": "' + b"y" * 5_000 + b'"}\n'
    path.write_bytes(entry + long + entry.replace(b"1", b"2") + b"torn")
    assert [found["id"] for found in quarantine.entries(path)] == [1, 2]
    assert quarantine._end_of_last_line(path) == len(entry) * 2 + len(long)


def long_quarantine(folder: Path, entries: int, letters: int) -> Path:
    """A target with a quarantine of so many entries, each with so many letters in its row."""
    target = migrate(make_memory(folder / "graph.sqlite", nodes=[node(1, timestamp="noon"), node(2)])).target
    path = target.with_name(target.name + ".quarantine.jsonl")
    row = json.loads(path.read_bytes())
    with path.open("ab") as file:
        for key in range(10, entries):
            row |= {"id": key, "row": row["row"] | {"id": key, "text": "x" * letters}}
            file.write(json.dumps(row).encode() + b"\n")
    return target


def peak_of(folder: Path, *words: str | Path) -> int:
    """Bytes of memory that a command had at most."""
    before = "import resource, runpy, sys; sys.argv[0] = 'nimad'"
    after = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    program = f"{before}\ntry:\n runpy.run_module('nimad', run_name='__main__')\nfinally:\n {after}"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=folder, env=environment(folder), capture_output=True, check=False
    )
    assert done.returncode in (ExitCode.COMPLETE, ExitCode.QUARANTINED), done.stderr
    return int(done.stderr.split()[-1]) * 1024


@pytest.mark.long
@pytest.mark.parametrize("words", [("status",), ("health",), ("report",), ("quarantine", "list"), ("verify",)])
def test_a_look_takes_no_more_memory_for_a_longer_quarantine(tmp_path: Path, words: tuple[str, ...]) -> None:
    target = long_quarantine(tmp_path, 10_000, 4_000)
    at: tuple[str | Path, ...] = ("--target", target)
    if words[0] in ("health", "verify"):
        at += ("--source", tmp_path / "graph.sqlite")
    long = peak_of(tmp_path, *words, *at)
    target.with_name(target.name + ".quarantine.jsonl").write_bytes(b"")
    assert long < peak_of(tmp_path, *words, *at) + 16 * 1024**2


def test_a_long_row_in_quarantine_is_told_without_being_read_as_json(tmp_path: Path) -> None:
    target = long_quarantine(tmp_path, 12, quarantine.PARSED_BYTES)
    listed = nimad(tmp_path, "quarantine", "list", "--target", target)
    assert [line.split()[1] for line in listed.out.splitlines()[:3]] == ["1", "10", "11"]
    shown = json.loads(nimad(tmp_path, "quarantine", "show", "11", "--target", target).out)
    assert len(shown["row"]["text"]) == quarantine.PARSED_BYTES


def test_a_row_that_failed_is_known_again_however_long_it_is(tmp_path: Path) -> None:
    nodes = [node(1, text="x" * (quarantine.PARSED_BYTES + 1)), node(2), node(3, text="y"), node(4)]
    source = SourceFile(make_memory(tmp_path / "graph.sqlite", nodes=nodes))
    schema = survey(source).schema
    rows = source.read(lambda connection: read_ids(connection, schema.nodes, [1, 2, 3]))
    file = tmp_path / "quarantine.jsonl"
    parts = {1: "row", 2: "text", 3: "row"}
    failed = [
        Reject("memory_nodes", key, part, "it failed", rows.named(key - 1), 4, "x") for key, part in parts.items()
    ]
    quarantine.add(file, failed)
    # What nobody of ours wrote: ids that SQLite has none of, and things in the place of words.
    odd: list[dict[str, object]] = [
        {"id": 2**80},
        {"id": True},
        {"id": [1]},
        {"id": 4, "reason": []},
        {"id": 4, "attempts": "9"},
    ]
    with file.open("ab") as ended:
        for each in odd:
            entry = {"table": "memory_nodes", "part": "row", "reason": "", "attempts": 1, "engine": "", "row": 1} | each
            ended.write(json.dumps(entry).encode() + b"\n")
    why = ("it failed", 4, "x")
    known = {"memory_nodes": {1: why, 3: why}}, {"memory_nodes": {2: {"text": why}}}
    assert left_out(source, schema, file) == known
    change(source.path, "UPDATE memory_nodes SET summary = 'else' WHERE id = 1")
    assert left_out(source, schema, file)[0] == {"memory_nodes": {3: why}}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "entry",
    [
        {"id": "9" * 5_000, "part": "range"},
        {"id": 2**80, "part": "row"},
        {"id": [[]], "part": "row"},
        {"id": "\ud800", "part": "row", "reason": "\ud800", "row": {"layer": ["\ud800"]}},
        {"id": 1, "part": "row", "reason": {"a": [1]}, "attempts": "many", "engine": [], "row": []},
        {"id": 1, "part": "row", "reason": "", "deep": json.loads("[" * 900 + "]" * 900)},
    ],
    ids=["long number", "large number", "list", "half a character", "other types", "deep"],
)
def test_an_entry_of_any_kind_is_no_bug_of_ours(tmp_path: Path, entry: dict[str, object]) -> None:
    target = long_quarantine(tmp_path, 0, 0)
    with target.with_name(target.name + ".quarantine.jsonl").open("a") as file:
        file.write(json.dumps({"table": "memory_nodes"} | entry) + "\n")
    both = ("--source", tmp_path / "graph.sqlite", "--target", target)
    for words in (
        ("status", *both),
        ("health", *both),
        ("report", "--target", target),
        ("quarantine", "list", "--target", target),
        ("quarantine", "show", "1", "--target", target),
        ("verify", *both),
    ):
        done = nimad(tmp_path, *words)
        assert done.code in (ExitCode.COMPLETE, ExitCode.QUARANTINED), done.err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("status", "--source"), ExitCode.COMPLETE),
        (("health", "--source"), ExitCode.QUARANTINED),
        (("verify", "--source"), ExitCode.IO_ERROR),
        (("migrate", "--reader-python", "none", "--source"), ExitCode.CANNOT_WRITE),
        (("search", "memory"), ExitCode.USAGE),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_a_target_that_is_all_holes_is_judged_by_what_the_disk_has(
    tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 20)])
    target = migrate(source).target
    os.truncate(target, 1 << 40)
    at = [source] if words[-1] == "--source" else []
    done = nimad(tmp_path, *words, *at, "--target", target)
    assert done.code == status, done.err
    if words[0] != "status":
        assert "nearly all of its 1,099,511,627,776 bytes are holes" in done.out + done.err


@pytest.mark.parametrize("suffix", LOG_SUFFIXES)
def test_a_pipe_where_the_engine_would_read_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    target = migrate(make_memory(tmp_path / "graph.sqlite")).target
    pipe = target.with_name(target.name + suffix)
    os.mkfifo(pipe)
    done = nimad(tmp_path, "health", "--db", target)
    assert done.code in (ExitCode.QUARANTINED, ExitCode.USAGE), done.err
    assert "plain file" in done.out + done.err


@pytest.mark.parametrize("signed", ["1 & touch /tmp/owned", "$(id)", "12\n34", ""])
def test_a_lock_names_a_process_by_digits_alone(tmp_path: Path, signed: str) -> None:
    files = Files(tmp_path / "graph.ladybug")
    with locked(files):
        files.lock.write_text(signed)
        with pytest.raises(NimadError, match="already working on this target") as raised, locked(files):
            pass
    command = str(raised.value).partition("kill ")[2]
    assert not command or command == str(os.getpid())


# Names


@pytest.mark.parametrize("name", ["source", "target", "log_file", "metrics_file", "engine_python", "openclaw_file"])
def test_a_path_with_control_characters_is_refused(tmp_path: Path, name: str) -> None:
    for sign in "\n\r\x1b\x9b\u202e\u2028":
        path = tmp_path / f"a{sign}[Service]" / "b.prom"
        settings: dict[str, Any] = {"source": tmp_path / "graph.sqlite", name: path}
        with pytest.raises(UsageError, match="has control characters; rename it") as raised:
            Settings(**settings)
        assert sign not in str(raised.value)


@pytest.mark.long
def test_json_says_what_is_there_and_commands_no_terminal(tmp_path: Path) -> None:
    who = f"eve {OBEYED}"
    source = make_memory(
        tmp_path / "graph.sqlite", nodes=[node(1, text=f"telescope {OBEYED}", who=who), node(2, timestamp=OBEYED)]
    )
    target = migrate(source).target
    for words in (
        ("search", "--json", "telescope", "--target", target),
        ("quarantine", "show", "--json", "2", "--target", target),
        ("quarantine", "show", "2", "--target", target),
        ("health", "--json", "--verbose", "--source", source, "--target", target),
    ):
        done = nimad(tmp_path, *words)
        assert not set(done.out) & RAW, words
    hit = json.loads(nimad(tmp_path, "search", "--json", "telescope", "--target", target).out)
    assert (hit["text"], hit["who"]) == (f"telescope {OBEYED}", who)


@pytest.mark.long
def test_a_table_of_any_name_forges_no_line_of_a_dry_run(tmp_path: Path) -> None:
    forged = "x\n[2026-11-30 00:00:00] [INFO] ✅ Migration completed successfully!"
    schema = [f'CREATE TABLE "{forged}" (id INTEGER)']
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)], schema=schema)
    for words in (("--dry-run",), ()):
        done = nimad(tmp_path, "migrate", "--source", source, *words)
        assert "\n[2026-11-30 00:00:00] [INFO] ✅" not in done.out + done.err
    assert "\n[2026-11-30 00:00:00] [INFO] ✅" not in (tmp_path / "migration.log").read_text()


# Programs


def script(path: Path, text: str) -> Interpreter:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Interpreter(str(path))


def test_a_reader_that_leaves_a_child_with_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    began, pid = time.monotonic(), tmp_path / "pid"
    guest = script(tmp_path / "python", f'sleep 300 & echo $! > {pid}; echo \'{{"module": "a"}}\'')
    answers, ended = guest.ask(threading.Event(), 60, "engines")
    assert (answers, ended) == ([{"module": "a"}], "")
    assert time.monotonic() - began < 20
    assert_gone(int(pid.read_text()))


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "the whole group was ended"
        time.sleep(0.05)


ANSWER = {"module": "ladybug", "python": "3.12.0", "pyarrow": True, "version": "0.22.0", "storage_version": 49}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "odd",
    [{"storage_version": "x"}, {"storage_version": None}, {"version": 5}, {"module": None}, {"module": "../evil"}],
    ids=str,
)
def test_a_reader_that_answers_in_odd_types_is_no_bug_of_ours(tmp_path: Path, odd: dict[str, object]) -> None:
    guest = script(tmp_path / "python", f"echo '{json.dumps(ANSWER | odd)}'")
    engines, problems = engines_of(guest, threading.Event())
    assert engines == []
    assert "its answer cannot be understood" in problems[0]


def test_a_worker_that_never_stops_talking_or_leaves_the_pipe_to_a_child_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's interpreter is one that the agent can write."""
    monkeypatch.setattr(worker_process, "_ANSWER_KEPT", 10_000_000)
    for text in ("exec yes", "sleep 300 & exit 1"):
        launch = worker_process.Launch(script(tmp_path / "python", text))
        began = time.monotonic()
        with worker_process.WorkerPool(threading.Event(), launch=launch) as workers:
            answer = workers.do(Job(task=Task.PROBE))
        assert not answer.ok
        assert time.monotonic() - began < 20


def test_a_reader_that_never_stops_talking_is_ended(tmp_path: Path) -> None:
    answers, ended = script(tmp_path / "python", "exec yes").ask(threading.Event(), 60, "engines")
    assert (answers, ended) == ([], f"its answer is longer than {interpreter.ANSWER_BYTES:,} bytes")


def test_a_stop_is_heard_while_a_reader_hangs(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        script(tmp_path / "python", "sleep 300").ask(stop, 60, "engines")
    assert time.monotonic() - began < 20


def test_the_linkers_variables_go_to_no_foreign_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    guest = script(tmp_path / "python", 'echo "{\\"set\\": \\"$LD_LIBRARY_PATH\\"}"')
    assert guest.ask(threading.Event(), 60, "engines")[0] == [{"set": ""}]
    assert "LD_LIBRARY_PATH" in Interpreter().environment()


def test_a_source_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "graph.sqlite")
    with pytest.raises(SourceError, match="is not a file"):
        check_source(tmp_path / "graph.sqlite")
