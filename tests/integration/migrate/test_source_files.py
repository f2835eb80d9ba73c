"""The files of the source: what lies beside it, how it is locked, and what it is that is no memory to be read."""

import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.commands import nimad
from support.memories import insert, make_memory, migrate_smoothly, node, read_target
from test_dry_run import MOUNTED

from nimad.errors import SourceLogError
from nimad.source.header import check_source
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey

TEXT = "a memory of some length " * 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "graph.sqlite"


def nodes(first: int, last: int) -> list[dict[str, object]]:
    return [node(number, text=f"{TEXT}{number}", turn_id=f"t{number}") for number in range(first, last + 1)]


def with_log(path: Path, first: int, last: int) -> None:
    """Leave a log with more nodes beside the memory, as an agent that is killed does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("BEGIN")
        insert(connection, "memory_nodes", nodes(first, last))
        connection.execute("COMMIT")
        shutil.copy(path, path.with_name("kept"))
        shutil.copy(f"{path}-wal", path.with_name("kept-wal"))
    path.with_name("kept").replace(path)
    path.with_name("kept-wal").replace(f"{path}-wal")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What lies in a folder. Not when its i-nodes changed: for root, SQLite gives a log the owner that it has."""
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


# A log of another state of the file


@pytest.fixture
def mixed(path: Path) -> Path:
    """A backup of 40 nodes put back, while the log of a file with 160 still lies there."""
    make_memory(path, "3.0", nodes=nodes(1, 40))
    backup = shutil.copy(path, path.parent.parent / "backup")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        insert(connection, "memory_nodes", nodes(41, 150))
    with_log(path, 151, 160)
    shutil.copy(backup, path)
    return path


def test_a_log_of_another_state_of_the_file_stops_everything_and_is_named(mixed: Path) -> None:
    before = contents(mixed.parent)
    log = f"{mixed}-wal"
    for words in (("migrate", "--dry-run"), ("migrate",), ("health",), ("doctor",)):
        ran = nimad(mixed.parent.parent, *words, "--source", mixed, "--target", mixed.parent.parent / "graph.ladybug")
        said = " ".join((ran.out + ran.err).split())
        assert ran.code, words
        assert log in said, words
        assert "the log seems to be of another state of the file" in said, words
        assert f"mv {log} {log}.aside" in said, words
    assert contents(mixed.parent) == before
    assert not (mixed.parent.parent / "graph.ladybug").exists()

    Path(log).rename(f"{log}.aside")  # what it said to type
    assert sorted(read_target(migrate_smoothly(mixed).target).nodes) == list(range(1, 41))


@pytest.mark.sampled
@pytest.mark.parametrize("page", [4_096, 1_024, 65_536])
def test_a_log_of_another_database_is_told_and_not_read_as_the_memory(path: Path, page: int) -> None:
    """Its first page is taken for the file's, and shows another schema."""
    make_memory(path, "3.0", nodes=nodes(1, 40), journal="DELETE")
    other = path.with_name("other.sqlite")
    with closing(sqlite3.connect(other, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA page_size = {page}; PRAGMA journal_mode = WAL; CREATE TABLE cache (key)")
        log = Path(f"{other}-wal").read_bytes()
    other.unlink()
    Path(f"{path}-wal").write_bytes(log)
    before = contents(path.parent)
    with pytest.raises(SourceLogError, match="together without memory_nodes") as told:
        migrate_smoothly(path)
    assert f"mv {path}-wal {path}-wal.aside" in str(told.value)
    Path(f"{path}-wal").replace(f"{path}-wal.aside")
    before[f"{path.name}-wal.aside"] = before.pop(f"{path.name}-wal")
    assert before.items() <= contents(path.parent).items()
    assert set(read_target(migrate_smoothly(path).target).nodes) == set(range(1, 41))


def test_a_log_of_its_own_is_read_with_a_file_that_is_damaged_alone(path: Path) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 40))
    with_log(path, 41, 60)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4_096)
        file.write(bytes(4_096))
    run = migrate_smoothly(path)
    assert set(read_target(run.target).nodes) >= set(range(41, 61))


# Nothing is left beside the file


def with_header_of_before(path: Path) -> tuple[bytes, bytes]:
    """A file of forty memories whose header says rollback journal; returns a log with two more, and its index."""
    make_memory(path, "3.0", nodes=nodes(1, 40), journal="DELETE")
    old = path.read_bytes()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        insert(connection, "memory_nodes", nodes(41, 42))
        log, index = Path(f"{path}-wal").read_bytes(), Path(f"{path}-shm").read_bytes()
    path.write_bytes(old)
    return log, index


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["all in the log", "no commit in the log", "with a left index", "closed"])
def test_no_command_that_reads_leaves_a_file_whatever_the_header_says(path: Path, kind: str) -> None:
    log, _ = with_header_of_before(path)
    if kind != "closed":
        Path(f"{path}-wal").write_bytes(log if kind != "no commit in the log" else log[:1_000])
    if kind == "with a left index":
        Path(f"{path}-shm").write_bytes(bytes(32_768))
    before = contents(path.parent)
    for words in (("migrate", "--dry-run"), ("health",), ("doctor",)):
        nimad(path.parent.parent, *words, "--source", path, "--target", path.parent.parent / "graph.ladybug")
        assert contents(path.parent) == before, words
    rows = 40 if kind in ("closed", "no commit in the log") else 42
    assert survey(SourceFile(path)).nodes.rows == rows
    assert contents(path.parent) == before


@pytest.mark.sampled
@pytest.mark.parametrize(
    "kind", ["rows in the log", "an empty log", "an index from before", "a folder that is read-only"]
)
def test_what_looks_at_both_files_leaves_the_memory_as_it_is_whatever_the_header_says(path: Path, kind: str) -> None:
    """Its log, or an empty one, lies beside a file whose header says rollback journal."""
    log, index = with_header_of_before(path)
    Path(f"{path}-wal").write_bytes(b"" if kind == "an empty log" else log)
    if kind == "an index from before":
        Path(f"{path}-shm").write_bytes(index)
    folder, target = path.parent.parent, path.parent.parent / "graph.ladybug"
    prefix = words_that_lock(path.parent) if kind == "a folder that is read-only" else []
    before = contents(path.parent)
    words = ("--source", path, "--target", target)
    assert nimad(folder, "migrate", *words, prefix=prefix).code == 0
    path.with_name("migration.log").unlink(missing_ok=True)  # all that is to be there
    assert contents(path.parent) == before
    assert set(read_target(target).nodes) == set(range(1, 41 if kind == "an empty log" else 43))
    for command in ("verify", "health", "status", "report", "rollback"):
        asked = words if command != "report" else words[2:]
        ran = nimad(folder, command, *asked, prefix=prefix)
        assert (ran.code, contents(path.parent)) == (0, before), (command, ran)


def words_that_lock(folder: Path) -> list[str]:
    """Words before a command to which a folder is read-only, for root too."""
    words = ["unshare", "--mount", "sh", "-c", MOUNTED, str(folder)]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    return words


# Locks, and damage that is none


def test_a_second_look_at_the_file_takes_no_lock_from_the_first(path: Path) -> None:
    """Closing any descriptor of a file drops all locks that a process has on it."""
    make_memory(path, "3.0", nodes=nodes(1, 5), journal="DELETE")
    source = SourceFile(path)
    write = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN EXCLUSIVE')"

    def work(connection: sqlite3.Connection) -> int:
        connection.execute("SELECT count(*) FROM memory_nodes").fetchone()
        second = threading.Thread(target=lambda: source.number("SELECT count(*) FROM memory_nodes"))
        second.start()
        second.join()
        check_source(path)
        return subprocess.run([sys.executable, "-c", write, path], capture_output=True, check=False).returncode

    assert source.read(work) != 0, "a writer came in between"


# What is no memory, or not ours to read


@pytest.mark.parametrize("version", [3, 255])
def test_a_format_of_another_writer_is_named(path: Path, version: int) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 5))
    with path.open("r+b") as file:
        file.seek(18)
        file.write(bytes([version, version]))
    ran = nimad(path.parent.parent, "migrate", "--source", path)
    assert ran.code == 2
    assert f"format version {version}" in ran.err
    assert "VACUUM INTO" in ran.err
    assert "damaged" not in ran.err


@pytest.mark.parametrize(
    ("limit", "value", "code", "said"),
    [
        (resource.RLIMIT_FSIZE, 200 * 1_024, 74, "ulimit -f unlimited"),
        (resource.RLIMIT_NOFILE, 16, 73, "ulimit -n 1024"),
    ],
)
def test_a_limit_of_the_process_is_named_and_not_the_disk(
    path: Path, limit: int, value: int, code: int, said: str
) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 20))
    words = [sys.executable, "-m", "nimad", "migrate", "--source", str(path)]
    ran = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )
    last = ran.stderr.splitlines()[-1]
    assert ran.returncode == code
    assert said in last
    assert "make room" not in last


# Readers on large pages
