"""The files of the source: what lies beside it, how it is locked, and what it is that is no memory to be read."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from support.memories import change, make_memory
from test_source_files import TEXT, nodes, path

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

__all__ = ["path"]  # fixtures


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


def test_a_format_that_others_may_not_write_is_read(path: Path) -> None:
    make_memory(path, "3.0", nodes=nodes(1, 5))
    with path.open("r+b") as file:
        file.seek(18)
        file.write(bytes([3]))
    assert survey(SourceFile(path)).nodes.rows == 5


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
