"""The dry run: everything is read and judged, nothing is written, and what it foretells comes true."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.memories import edge, make_memory, migrate_smoothly, node, turn, vector

import nimad
from nimad.errors import StoppedError
from nimad.events.run import Analyzed, DryRun, Finished, Planned, Started

#: Adds 40 nodes that stay in the write-ahead log, says so, and waits to be killed.
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("BEGIN")
connection.executemany("INSERT INTO memory_nodes (id, text) VALUES (?, ?)", [(n, "late") for n in range(1000, 1040)])
connection.execute("COMMIT")
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory" / "graph.sqlite"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Another program has the memory open and has written to it; at the end it is killed."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "written\n"
            yield
        finally:
            writer.send_signal(signal.SIGKILL)


def everything_in(folder: Path) -> dict[str, Any]:
    """Each name below a folder, and the folder, with content, size, time of change, mode and owner."""
    found: dict[str, Any] = {}
    for place in [folder, *sorted(folder.rglob("*"))]:
        status = place.lstat()
        content = place.read_bytes() if place.is_file() else None
        facts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid)
        found[str(place.relative_to(folder))] = (facts, content)
    return found


def sound_memory(path: Path, journal: str = "WAL") -> Path:
    nodes = [node(key, embedding=vector(1, 2)) for key in range(1, 61)]
    edges = [edge(key, key, key + 1) for key in range(1, 60)]
    turns = [turn(key, key, None, key + 1) for key in range(1, 30)]
    return make_memory(path, "3.0", nodes=nodes, edges=edges, turns=turns, journal=journal)


# Not one byte


def nodes_found_without_a_trace(path: Path) -> int:
    before = everything_in(path.parent)
    run = migrate_smoothly(path, dry_run=True)
    assert everything_in(path.parent) == before
    assert run.result.outcome == "dry run"
    return run.only(Analyzed).nodes


@pytest.mark.sampled
@pytest.mark.parametrize("journal", ["WAL", "DELETE", "TRUNCATE"])
def test_a_folder_stays_as_it_was_when_the_memory_lies_still(path: Path, journal: str) -> None:
    sound_memory(path, journal)
    assert [file.name for file in path.parent.iterdir() if not file.name.endswith("-journal")] == ["graph.sqlite"]
    assert nodes_found_without_a_trace(path) == 60


@pytest.mark.sampled
@pytest.mark.parametrize("index", ["with", "without", "empty"])
def test_a_folder_stays_as_it_was_after_a_writer_was_killed(path: Path, index: str) -> None:
    sound_memory(path)
    with writing(path):
        pass
    log, shared = path.with_name("graph.sqlite-wal"), path.with_name("graph.sqlite-shm")
    assert log.stat().st_size > 0
    if index == "without":
        shared.unlink()  # a backup that left it out, say
    elif index == "empty":
        os.truncate(shared, 0)
    assert nodes_found_without_a_trace(path) == 100  # what stands in the log only is read too


def test_a_folder_stays_as_it_was_while_another_program_has_the_memory_open(path: Path) -> None:
    sound_memory(path)
    with writing(path):
        before = everything_in(path.parent)
        run = migrate_smoothly(path, dry_run=True)
        after = everything_in(path.parent)
    # In `-shm` SQLite notes which part of the log readers still need; everything else is untouched.
    assert after.keys() == before.keys()
    assert {name: after[name] for name in after if not name.endswith("-shm")} == {
        name: before[name] for name in before if not name.endswith("-shm")
    }
    assert run.only(Analyzed).nodes == 100


def test_a_log_left_by_a_writer_that_went_orderly_is_no_trouble(path: Path) -> None:
    sound_memory(path)
    path.with_name("graph.sqlite-wal").touch()
    assert nodes_found_without_a_trace(path) == 60


@pytest.mark.sampled
@pytest.mark.parametrize(
    "cut",
    [lambda _: b"no log" * 2_000, lambda log: log[:32], lambda log: log[:2_000]],
    ids=["no log", "its header", "torn in its first frame"],
)
def test_a_log_without_a_single_commit_stays_where_it_is(path: Path, cut: Callable[[bytes], bytes]) -> None:
    """SQLite removes such a log from beside a file that it has opened for reading only."""
    sound_memory(path)
    with writing(path):
        pass
    log = path.with_name("graph.sqlite-wal")
    log.write_bytes(cut(log.read_bytes()))
    path.with_name("graph.sqlite-shm").unlink()
    assert nodes_found_without_a_trace(path) == 60


def test_an_unfinished_run_and_a_finished_one_are_left_alone(path: Path) -> None:
    sound_memory(path)
    for name in ("graph.ladybug", "graph.ladybug.migrating", "graph.ladybug.state.json", "migration.log"):
        path.with_name(name).write_text("somebody's")
    assert nodes_found_without_a_trace(path) == 60


# Read-only places

DRY_RUN = """
import json, sys, nimad
found = []
nimad.migrate(nimad.Settings(source=sys.argv[1], dry_run=True), found.append)
print(json.dumps([event.to_json() for event in found if type(event).__name__ in ("Analyzed", "DryRun")]))
"""


#: Root may write whatever the modes say, so for root the folder is mounted read-only, seen by this child alone.
MOUNTED = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def dry_run_by_a_mere_reader(path: Path) -> list[dict[str, Any]]:
    """The events of a dry run that cannot write to the memory's folder."""
    folder = str(path.parent)
    command = [sys.executable, "-c", DRY_RUN, str(path)]
    if os.getuid() == 0:
        alone = ["unshare", "--mount", "sh", "-c", MOUNTED, folder]
        if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
            pytest.skip("root without the right to mount")
        command = [*alone, *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events: list[dict[str, Any]] = json.loads(done.stdout)
    return events


@pytest.mark.sampled
@pytest.mark.parametrize("state", ["still", "killed", "killed, index lost"])
def test_a_memory_in_a_read_only_place_can_be_looked_at(path: Path, state: str) -> None:
    sound_memory(path)
    if state != "still":
        with writing(path):
            pass
    if state == "killed, index lost":
        path.with_name("graph.sqlite-shm").unlink()
    for file in path.parent.iterdir():
        file.chmod(0o444)
    path.parent.chmod(0o555)
    before = everything_in(path.parent)
    try:
        analyzed, dry = dry_run_by_a_mere_reader(path)
        assert everything_in(path.parent) == before
    finally:
        path.parent.chmod(0o755)
    assert analyzed["nodes"] == dry["facts"]["rows"]["memory_nodes"] == (60 if state == "still" else 100)


def test_the_folder_of_the_target_need_not_exist(path: Path) -> None:
    sound_memory(path)
    run = migrate_smoothly(path, dry_run=True, target=path.parent / "not" / "yet" / "graph.ladybug")
    assert run.only(DryRun).target.endswith("not/yet/graph.ladybug")
    assert not (path.parent / "not").exists()


# What it says


def test_it_says_what_would_happen_and_nothing_has_happened(path: Path) -> None:
    sound_memory(path)
    run = migrate_smoothly(path, dry_run=True, batch_size=10)

    assert run.events[-1] == run.only(DryRun)
    assert [*run.all(Started), *run.all(Finished)] == []
    assert (run.result.exit_code, run.result.migrated) == (0, 0)
    facts = run.only(DryRun).facts
    assert facts["rows"] == {"memory_nodes": 60, "memory_edges": 59, "memory_turns": 29}
    assert (facts["dimension"], facts["quarantine_rows"], facts["quarantine_parts"]) == (2, 0, 0)
    assert facts["examples"] == []
    assert facts["plan"] == run.only(Planned).plan
    assert facts["plan"]["first_batch"] == 10
    assert 1 < facts["plan"]["total_batches"] < 6  # batches grow
    assert facts["plan"]["disk_free"] > facts["plan"]["disk_needed"] > 0
    assert facts["plan"]["pool_bytes"] >= 128 * 1024**2
    assert 0 < facts["seconds_converting"] < facts["seconds_expected"]


def test_a_memory_without_a_row_has_nothing_to_foretell(path: Path) -> None:
    make_memory(path, "1.0")
    facts = migrate_smoothly(path, dry_run=True).only(DryRun).facts
    assert facts["rows"] == {"memory_nodes": 0, "memory_edges": 0, "memory_turns": 0}
    assert (facts["quarantine_rows"], facts["quarantine_parts"]) == (0, 0)


@pytest.mark.long
def test_it_lists_every_obstacle_and_none_that_an_option_takes_away(path: Path) -> None:
    sound_memory(path)
    path.with_name("graph.ladybug").write_text("somebody's")
    nowhere = path.parent / "no" / "folder" / "graph.ladybug"
    words: dict[str, Any] = {"dry_run": True, "max_memory": "64M"}

    memory, there = migrate_smoothly(path, **words).only(DryRun).facts["obstacles"]
    assert memory.startswith("--max-memory 64M ")
    assert "is there already" in there
    folder, memory = migrate_smoothly(path, target=nowhere, **words).only(DryRun).facts["obstacles"]
    assert "there is no folder" in folder
    assert memory.startswith("--max-memory 64M ")
    (there,) = migrate_smoothly(path, force=True, **words).only(DryRun).facts["obstacles"]
    assert "is there already" in there
    assert migrate_smoothly(path, force=True, replace=True, **words).only(DryRun).facts["obstacles"] == []


# What it foretells


def foretold(facts: Any) -> tuple[int, int]:
    """Whole rows and parts that a real run will set aside: those of no value and those of no node."""
    return facts["quarantine_rows"], facts["quarantine_parts"]


def dry_then_real(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    facts = migrate_smoothly(path, dry_run=True).only(DryRun).facts
    result = migrate_smoothly(path).result
    return foretold(facts), (result.quarantined, result.quarantined_parts)


def test_what_would_be_quarantined_is_what_a_real_run_quarantines(path: Path) -> None:
    nodes = [node(key, embedding=vector(1, 2)) for key in range(1, 11)]
    nodes += [node(11, timestamp="soon"), node(12, is_ghost=2), node(13, embedding=b"odd"), node(14, text=b"\xff")]
    edges = [edge(1, 1, 2), edge(2, 1, 99), edge(3, 98, 99), edge(4, None, 1), edge(5, 1, 2, weight="heavy")]
    turns = [turn(1, 1, None, 99), turn(2, 97, 98, 99), turn(3, 1, timestamp="later"), turn(4)]
    make_memory(path, "3.0", nodes=nodes, edges=edges, turns=turns)

    dry = migrate_smoothly(path, dry_run=True)
    facts = dry.only(DryRun).facts
    reason = "timestamp: text of 4 characters where an integer belongs"
    assert f"memory_nodes id 11 (timestamp): {reason}" in facts["examples"]

    real = migrate_smoothly(path)
    assert foretold(facts) == (real.result.quarantined, real.result.quarantined_parts) == (3, 10)
    said = {f"{line['table']} id {line['id']} ({line['part']}): {line['reason']}" for line in real.quarantine}
    assert set(facts["examples"]) <= said


def test_rows_with_unusable_ids_are_foretold(path: Path) -> None:
    own = ["CREATE TABLE memory_nodes (id, text TEXT)"]
    nodes = [{"id": key, "text": f"x{n}"} for n, key in enumerate((1, 1, 2, "three", None, 0.5, 3, None, "3"))]
    make_memory(path, schema=own, own_schema=True, nodes=nodes)
    dry, real = dry_then_real(path)
    assert dry == real == (4, 0)


def test_edges_and_links_of_a_node_that_goes_to_quarantine_are_foretold(path: Path) -> None:
    own = ["DROP TABLE memory_nodes", "CREATE TABLE memory_nodes (id, timestamp INTEGER, layer TEXT, text TEXT)"]
    edges, turns = [edge(1, 1, 2), edge(2, 1, 1)], [turn(1, 1, None, 2)]
    make_memory(path, "1.0", schema=own, nodes=[node(1), node(None)], edges=edges, turns=turns)
    dry, real = dry_then_real(path)
    assert dry == real == (2, 1)


def test_a_row_that_is_set_aside_whole_is_foretold_once_whatever_else_is_wrong(path: Path) -> None:
    edges = [edge(1, "one", 99), edge(2, 1, 99, weight="heavy")]
    turns = [turn(1, 99, timestamp="later"), turn(2, "one", 99)]
    make_memory(path, "1.0", nodes=[node(1)], edges=edges, turns=turns)
    dry, real = dry_then_real(path)
    assert dry == real == (2, 4)


@pytest.mark.parametrize(
    "bad",
    [
        {"nodes": [node(1, timestamp="soon")]},
        {"nodes": [node(1)], "edges": [edge(1, 1, 9)]},
    ],
)
def test_strict_foretells_that_it_would_stop(path: Path, bad: dict[str, Any]) -> None:
    make_memory(path, "1.0", **bad)
    before = everything_in(path.parent)
    with pytest.raises(StoppedError, match="--strict would stop at memory_"):
        nimad.migrate(nimad.Settings(source=path, dry_run=True, strict=True))
    assert everything_in(path.parent) == before


def test_the_source_is_not_locked_by_looking_at_it(path: Path) -> None:
    sound_memory(path)
    with writing(path):
        migrate_smoothly(path, dry_run=True)
        with closing(sqlite3.connect(path, timeout=0)) as connection, connection:
            connection.execute("INSERT INTO memory_nodes (text) VALUES ('at once')")
