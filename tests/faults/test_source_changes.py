"""What happens to the memory while it is migrated: what an agent does is followed, what loses rows stops the run.

Each change is made to the real file, between two workers of a run that goes on.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from support.memories import (
    Run,
    assert_same,
    change,
    edge,
    make_memory,
    migrate,
    node,
)
from support.torture import assert_nothing_left, staging_of, target_of

import nimad
from nimad.errors import ExitCode, NimadError, RefusedError, SourceError
from nimad.events.run import BatchLoaded, Event, Started, TableLoaded, Verified, Verifying

NODES, BATCH = 60, 30
#: Seconds for which another program holds the whole file.
HELD_S = 2.0

Change = Callable[[Path], object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return memory(tmp_path / "graph.sqlite")


def memory(path: Path, nodes: int = NODES, journal: str = "WAL") -> Path:
    return make_memory(
        path,
        journal=journal,
        nodes=[node(key, who="Maya") for key in range(1, nodes + 1)],
        edges=[edge(key, key, key + 1) for key in range(1, nodes)],
    )


def changed(source: Path, do: Change, at: type[Event] = BatchLoaded) -> Run:
    """Run, with something done to the source at the first event of a kind."""
    return changed_at(source, {at: do})


def changed_at(source: Path, what: Mapping[type[Event], Change]) -> Run:
    heard: list[Event] = []
    todo = dict(what)

    def listen(event: Event) -> None:
        heard.append(event)
        if do := todo.pop(type(event), None):
            do(source)

    settings = nimad.Settings(source=source, batch_size=BATCH, fixed_batch=True)
    run = Run(nimad.migrate(settings, listen), heard)
    assert todo == {}
    return run


def refused(source: Path, do: Change, at: type[Event] = BatchLoaded) -> NimadError:
    """The error that stops the run: nothing is published, and what was loaded stays."""
    with pytest.raises(NimadError) as caught:
        changed(source, do, at)
    assert not os.path.lexists(target_of(source))
    assert staging_of(source).stat().st_size > 0
    return caught.value


def assert_goes_on(source: Path) -> None:
    """Run again, with what was loaded as the beginning."""
    run = migrate(source)
    assert run.only(Started).found["MemoryNode"] >= BATCH
    assert_same(source, run.target)
    assert_nothing_left(run.target)


def assert_begins_again(source: Path) -> None:
    """What was typed before does not help; what the message names does."""
    run = migrate(source, restart=True)
    assert run.only(Started).found == {}
    assert_same(source, run.target)
    assert_nothing_left(run.target)


# Another file in its place


def replace(source: Path) -> None:
    other = memory(source.with_name("other.sqlite"), nodes=50)
    change(other, "UPDATE memory_nodes SET text = 'another ' || id")
    other.replace(source)


def take_away(source: Path) -> None:
    source.unlink()


@pytest.mark.sampled
@pytest.mark.parametrize("how", [replace, take_away])
@pytest.mark.parametrize("at", [BatchLoaded, Verified])
def test_a_source_that_is_no_longer_the_same_file_stops_the_run(source: Path, how: Change, at: type[Event]) -> None:
    original = source.with_name("original.sqlite")
    os.link(source, original)
    error = refused(source, how, at)
    if how is replace:
        with pytest.raises(NimadError, match=f"begun from another source: {source} is not") as caught:
            migrate(source)
        assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    original.replace(source)
    if at is BatchLoaded:
        assert_goes_on(source)
    assert isinstance(error, SourceError)
    assert error.exit_code == ExitCode.USAGE
    assert f"{source} was replaced or taken away during the run, so nothing is published" in str(error)
    assert "put it back and run again, or start over with --restart" in str(error)


# The same file with other content


def forget_most(source: Path) -> None:
    change(source, "DELETE FROM memory_nodes WHERE id > 10")


def forget_all(source: Path) -> None:
    change(source, "DELETE FROM memory_nodes")


def write_an_older_copy_over_it(source: Path) -> None:
    """In place, as `cp` does."""
    older = memory(source.with_name("older.sqlite"), nodes=15)
    inode = source.stat().st_ino
    shutil.copyfile(older, source)
    assert source.stat().st_ino == inode


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("how", "at"),
    [
        (forget_most, BatchLoaded),
        (forget_all, BatchLoaded),
        (write_an_older_copy_over_it, BatchLoaded),
        (write_an_older_copy_over_it, Verifying),
    ],
)
def test_a_source_that_loses_most_of_what_was_copied_stops_the_run(source: Path, how: Change, at: type[Event]) -> None:
    """The staging file may be the last place where those rows are."""
    before = source.read_bytes()
    error = refused(source, how, at)
    assert isinstance(error, RefusedError)
    assert error.exit_code == ExitCode.INTERRUPTED
    assert f"{source} has lost" in str(error)
    assert "rows of memory_nodes that were copied already" in str(error)
    assert f"they are still in {staging_of(source)}" in str(error)
    assert "Restore the source and run again; if they are meant to be gone, start over with --restart" in str(error)
    if at is Verifying:
        with pytest.raises(RefusedError, match=f"{source} has lost"):
            migrate(source)
        assert_begins_again(source)
    else:
        source.write_bytes(before)
        assert_goes_on(source)


@pytest.mark.sampled
@pytest.mark.parametrize("at", [BatchLoaded, Verified])
def test_a_source_that_is_emptied_stops_the_run(source: Path, at: type[Event]) -> None:
    before = source.read_bytes()
    error = refused(source, lambda path: os.truncate(path, 0), at)
    source.write_bytes(before)
    assert_goes_on(source)
    assert f"{source} is empty" in str(error)
    assert "nothing is published" in str(error)


def test_a_source_that_is_cut_off_in_the_middle_stops_the_run(source: Path) -> None:
    before = source.read_bytes()
    error = refused(source, lambda path: os.truncate(path, len(before) // 8192 * 4096))
    assert error.exit_code == ExitCode.IO_ERROR
    assert f"{source} is" in str(error)
    source.write_bytes(before)
    assert_goes_on(source)


# Columns


COLUMNS: Mapping[str, tuple[str, str]] = {
    "ALTER TABLE memory_nodes ADD COLUMN mood TEXT": ("memory_nodes", "mood came"),
    "ALTER TABLE memory_nodes DROP COLUMN who": ("memory_nodes", "who went"),
    "ALTER TABLE memory_nodes RENAME COLUMN who TO speaker": ("memory_nodes", "speaker came, who went"),
    "ALTER TABLE memory_edges ADD COLUMN mood TEXT": ("memory_edges", "mood came"),
}


@pytest.mark.sampled
@pytest.mark.parametrize("statement", COLUMNS)
def test_columns_that_change_in_the_middle_stop_the_run(source: Path, statement: str) -> None:
    """Rows before and after would not be alike; which is right is not ours to say."""
    table, what = COLUMNS[statement]
    error = refused(source, lambda path: change(path, statement))
    assert isinstance(error, RefusedError)
    assert error.exit_code == ExitCode.INTERRUPTED
    assert f"the columns of {table} changed during the run ({what}), so nothing is published" in str(error)
    assert "start over with --restart" in str(error)
    if "RENAME" in statement:
        assert_begins_again(source)


def test_a_table_that_is_dropped_in_the_middle_stops_the_run(source: Path) -> None:
    error = refused(source, lambda path: change(path, "DROP TABLE memory_edges"))
    assert error.exit_code == ExitCode.INTERRUPTED
    assert "memory_edges" in str(error)
    assert "nothing is published" in str(error)


# What an agent does in passing


def test_what_leaves_the_rows_alone_is_no_obstacle(source: Path) -> None:
    def does(statement: str) -> Change:
        return lambda path: change(path, statement)

    run = changed_at(
        source,
        {
            Started: does("CREATE TABLE dreams (id INTEGER PRIMARY KEY, text TEXT)"),
            BatchLoaded: does("CREATE INDEX by_who ON memory_nodes (who)"),
            TableLoaded: does("CREATE TRIGGER watch AFTER INSERT ON memory_edges BEGIN SELECT 1; END"),
            Verifying: does("VACUUM"),
        },
    )
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(source, run.target)
    assert_nothing_left(run.target)


@pytest.mark.sampled
@pytest.mark.parametrize("at", [BatchLoaded, Verifying])
def test_a_few_rows_that_are_deleted_are_deleted_from_the_target_too(source: Path, at: type[Event]) -> None:
    def forget(path: Path) -> None:
        change(path, "DELETE FROM memory_edges WHERE id IN (8, 9) OR source_id <= 4")
        change(path, "DELETE FROM memory_nodes WHERE id <= 4")

    run = changed(source, forget, at)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert set(assert_same(source, run.target).nodes) == set(range(5, NODES + 1))


# A program that holds the whole file


#: Holds the file in a transaction that lets nobody read, for some seconds.
HAS_ROWS = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
connection.execute("UPDATE memory_nodes SET summary = 'held' WHERE id <= 3")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


@pytest.mark.long
def test_a_program_that_holds_the_whole_file_is_waited_for(tmp_path: Path) -> None:
    source = memory(tmp_path / "graph.sqlite", journal="DELETE")
    holders: list[subprocess.Popen[bytes]] = []

    def hold(path: Path) -> None:
        command = [sys.executable, "-c", HAS_ROWS, str(path), str(HELD_S)]
        holders.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        stdout = holders[-1].stdout
        assert stdout is not None
        assert stdout.readline() == b"held\n"
        with closing(sqlite3.connect(path, timeout=0)) as reader, pytest.raises(sqlite3.OperationalError):
            reader.execute("SELECT count(*) FROM memory_nodes")

    try:
        run = changed_at(source, {Started: hold, BatchLoaded: hold, Verifying: hold})
    finally:
        for holder in holders:
            holder.communicate()
    assert run.result.exit_code == ExitCode.COMPLETE
    assert run.result.retries == 0
    assert assert_same(source, run.target).nodes[1]["summary"] == "held"
