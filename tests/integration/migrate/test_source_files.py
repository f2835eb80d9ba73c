"""The files of the source: what lies beside it, how it is locked, and what it is that is no memory to be read."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from support.commands import nimad
from support.memories import change, insert, make_memory, migrate_smoothly, node, read_target
from test_dry_run import MOUNTED

from nimad.diagnostics import health
from nimad.engines.interpreter import Interpreter
from nimad.engines.selection import Choice, FoundEngine
from nimad.errors import SourceError, SourceLogError
from nimad.host import machine
from nimad.migration import large_pages
from nimad.source import foreign_wal, quick_check
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


def test_a_log_of_another_state_is_seen_by_an_index_alone(path: Path) -> None:
    """Pages of the two fit together: only an index that lacks a row of its table tells."""
    make_memory(path, "3.0", nodes=nodes(1, 40), schema=["CREATE INDEX by_who ON memory_nodes (who, id)"])
    backup = shutil.copy(path, path.parent.parent / "backup")
    change(path, "UPDATE memory_nodes SET who = 'someone else' WHERE id < 3")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE memory_nodes SET text = upper(text) WHERE id = 1")  # its page, not the index's
        shutil.copy(f"{path}-wal", path.parent.parent / "log")
    shutil.copy(backup, path)
    shutil.copy(path.parent.parent / "log", f"{path}-wal")
    source = SourceFile(path)
    assert quick_check.damage(source, survey(source).schema) == []
    with pytest.raises(SourceLogError, match=r"graph\.sqlite-wal"):
        quick_check.refuse_foreign_log(source)


def test_a_log_that_has_every_page_of_another_state_is_told_by_its_count(path: Path) -> None:
    """Nothing is damaged: the log holds a whole memory of its own, and of the file put back no row would be read."""
    make_memory(path, "3.0", nodes=nodes(1, 300))
    backup = shutil.copy(path, path.parent.parent / "backup")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM memory_nodes WHERE id > 5")
        connection.execute("DROP TABLE memory_edges")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("VACUUM")  # writes every page
        log = Path(f"{path}-wal").read_bytes()
    shutil.copy(backup, path)
    Path(f"{path}-wal").write_bytes(log)
    source = SourceFile(path)
    assert survey(source).nodes.rows == 5
    assert quick_check.damage(source, survey(source).schema) == []
    with pytest.raises(SourceLogError, match="it goes on from another number of changes or pages than the file has"):
        quick_check.refuse_foreign_log(source)


@pytest.mark.parametrize("seed", range(6))
def test_a_log_of_its_own_is_never_taken_for_one_of_another_state(tmp_path: Path, seed: int) -> None:
    """Whatever programs did: grow, shrink, roll back, move some of the log into the file, and begin it anew."""
    chance, path, copy = Random(seed), tmp_path / "graph.sqlite", tmp_path / "copy.sqlite"
    make_memory(path, "3.0", nodes=nodes(1, 5))
    programs = [sqlite3.connect(path, isolation_level=None) for _ in range(3)]
    checkpoints = [f"PRAGMA wal_checkpoint({kind})" for kind in ("PASSIVE", "FULL", "RESTART")]
    changes = [
        "INSERT INTO memory_nodes (text) VALUES (hex(randomblob(3000)))",
        "UPDATE memory_nodes SET text = 'short' WHERE id % 3 = 1",
        "DELETE FROM memory_nodes WHERE id % 7 = 5",
        "BEGIN; INSERT INTO memory_nodes (text) VALUES ('no'); ROLLBACK",
        "VACUUM",
    ]
    seen = 0
    for step in range(60):
        program = chance.choice(programs)
        program.execute(f"PRAGMA wal_autocheckpoint = {chance.choice((0, 3, 1000))}")
        program.executescript(chance.choice([*changes, *checkpoints, f"CREATE TABLE other{step} (a)"]))
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
        seen += foreign_wal.has_log(copy)
        foreign_wal.refuse_by_count(copy)
    assert seen > 10
    for program in programs:
        program.close()


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


def test_nothing_stays_open_once_all_is_read(path: Path) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 5))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        survey(SourceFile(path))
        check_source(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_damage_that_a_second_look_does_not_find_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 5))
    said = iter([["Page 5 is never used"], []])
    monkeypatch.setattr(quick_check, "faults", lambda *_: next(said, []))
    source = SourceFile(path)
    assert quick_check.damage(source, replace(survey(source).schema, edges=None, turns=None)) == []


def test_damage_is_not_believed_of_a_file_that_moved_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 5))
    said = iter([["a line"], ["a line"], []])

    def look(*_: object) -> list[str]:
        os.utime(path, ns=(1, Random().getrandbits(60)))
        return next(said)

    source = SourceFile(path)
    schema = replace(survey(source).schema, edges=None, turns=None)
    monkeypatch.setattr(quick_check, "faults", look)
    change(path, "PRAGMA journal_mode = DELETE")  # which is read under a lock, and not by the stamps
    assert quick_check.damage(source, schema) == []


# What is no memory, or not ours to read


def test_an_encrypted_file_is_told_from_one_that_is_no_database(path: Path) -> None:
    path.write_bytes(Random(1).randbytes(4_096 * 5))
    with pytest.raises(
        SourceError, match=r"seems to be encrypted, as SQLCipher does it.*sqlcipher_export.*--source"
    ) as told:
        check_source(path)
    assert "not an SQLite file" not in str(told.value)
    assert "encrypted" in health.of_file(path).files[0].problem
    for other in (b"no database at all\n" * 1_000, Random(1).randbytes(5_000), bytes(8_192)):
        path.write_bytes(other)
        with pytest.raises(SourceError, match="not an SQLite file"):
            check_source(path)


@pytest.mark.parametrize("page", [1_024, 4_096, 65_536])
@pytest.mark.parametrize("plain", [0, 16, 32])
def test_an_encrypted_file_is_told_whatever_of_its_header_is_plain(path: Path, page: int, plain: int) -> None:
    """SQLCipher leaves the first bytes as they are where it is asked to: then the file begins as any of SQLite."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute("CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO memory_nodes VALUES (1, ?)", (TEXT * 20,))
        connection.commit()
    check_source(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:plain] + Random(page).randbytes(len(whole) - plain))
    with pytest.raises(SourceError, match="seems to be encrypted, as SQLCipher does it"):
        check_source(path)


def test_random_bytes_in_the_pages_of_a_plain_file_are_no_encryption(path: Path) -> None:
    """As embeddings are, on pages of 512 bytes right behind the header."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY, embedding BLOB)")
        connection.executemany("INSERT INTO memory_nodes VALUES (?, randomblob(4000))", [(1,), (2,)])
        connection.commit()
    assert len(set(path.read_bytes()[:4_096])) > 240
    check_source(path)
    assert survey(SourceFile(path)).nodes.rows == 2


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


def test_a_format_that_others_may_not_write_is_read(path: Path) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 5))
    with path.open("r+b") as file:
        file.seek(18)
        file.write(bytes([3]))
    assert survey(SourceFile(path)).nodes.rows == 5


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


@pytest.mark.parametrize(("version", "page", "warned"), [("0.15.3", 16_384, 1), ("0.18.0", 16_384, 0), ("0.15.3", 4_096, 0)])  # fmt: skip  # noqa: E501
def test_a_reader_that_will_fail_at_its_first_write_is_foretold(
    monkeypatch: pytest.MonkeyPatch, version: str, page: int, warned: int
) -> None:
    monkeypatch.setattr(machine, "page_bytes", lambda: page)
    reader = FoundEngine(Interpreter("/usr/bin/python3"), "real_ladybug", version, 40, (3, 11), pyarrow=True)
    lines = large_pages.warnings(Choice(readers=(reader,)))
    assert len(lines) == warned
    for line in lines:
        assert "pip uninstall -y real-ladybug" in line
        assert "kernel=kernel8.img" in line
