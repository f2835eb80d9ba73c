"""The journal's entries: one for each message, with its priority and fields, whatever stands in the text."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.journald import Journald

from nimad.report.level import Level
from nimad.report.log.journal import Journal


@pytest.fixture
def journald() -> Iterator[Journald]:
    with tempfile.TemporaryDirectory() as folder, Journald(Path(folder) / "socket") as listening:  # a short path
        yield listening


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[int]:
    """A descriptor that lines may be written to, of the file `stream`."""
    with (tmp_path / "stream").open("wb") as file:
        yield file.fileno()


def stream_id(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


# Entries


@pytest.mark.parametrize(
    ("level", "priority"), [(Level.DEBUG, "7"), (Level.INFO, "6"), (Level.WARN, "4"), (Level.ERROR, "3")]
)
def test_an_entry_has_the_text_its_priority_and_who_sent_it(journald: Journald, level: Level, priority: str) -> None:
    text = "Batch 1/20 (2.5% complete, ETA: 95s)"
    journald.journal().send(level, text)
    assert journald.entries == [{"MESSAGE": text, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "nimad"}]


def test_a_field_is_one_line_and_otherwise_sent_as_it_is(journald: Journald) -> None:
    fields = {"NIMA_PHASE": "loading\nPRIORITY=0\n", "NIMA_BATCH": "", "NIMA_OFFSET": "="}
    journald.journal().send(Level.INFO, "text", fields)
    (entry,) = journald.entries
    assert {name: entry[name] for name in fields} == {**fields, "NIMA_PHASE": "loading?PRIORITY=0?"}
    assert len(entry) == 6


def test_a_text_cannot_bring_fields_of_its_own(journald: Journald) -> None:
    text = "reader said:\nPRIORITY=0\nMESSAGE\n\x04\0\0\0\0\0\0\0fake\n_PID=1\n<0>panic"
    journald.journal().send(Level.WARN, text)
    assert journald.entries == [{"MESSAGE": text, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "nimad"}]


def test_a_traceback_is_one_entry(journald: Journald) -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1\n\nValueError: no'
    journald.journal().send(Level.ERROR, text)
    assert journald.messages == [text]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text())
def test_any_text_arrives_unchanged(journald: Journald, text: str) -> None:
    journald.journal().send(Level.INFO, text)
    assert journald.messages[-1] == text


def test_the_name_of_a_file_that_is_no_text_is_shown(journald: Journald) -> None:
    journald.journal().send(Level.INFO, os.fsdecode(b"\xff.sqlite"))
    assert journald.messages == ["\\udcff.sqlite"]


def test_a_megabyte_goes_by_a_sealed_file(journald: Journald) -> None:
    text = "every sign counts ✅\n" * 50_000
    journald.journal().send(Level.ERROR, text, {"NIMA_PHASE": "verifying"})
    (entry,) = journald.entries
    assert entry["MESSAGE"] == text
    assert (entry["PRIORITY"], entry["NIMA_PHASE"], journald.passed) == ("3", "verifying", 1)


def test_nothing_stays_open(journald: Journald) -> None:
    before = descriptors()
    for text in ("short", "long" * (1 << 20)):
        journald.journal().send(Level.INFO, text)
    assert len(journald.entries) == 2
    assert descriptors() == before


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_journal_that_was_restarted_hears_the_next_line(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / "socket"
        journal = Journal(path=path)
        for text in ("before", "after"):
            with Journald(path) as journald:
                journal.send(Level.INFO, text)
                assert journald.messages == [text]


# Where nobody listens


def test_without_a_socket_each_line_has_its_priority(tmp_path: Path, stream: int) -> None:
    Journal(stream, tmp_path / "none").send(Level.WARN, "one\n\n<0>two\0<0>three ✅")
    assert (tmp_path / "stream").read_text() == "<4>one\n<4>\n<4><0>two\n<4><0>three ✅\n"


def test_a_socket_that_nobody_reads_is_as_none(journald: Journald, tmp_path: Path, stream: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        left = Path(folder) / "socket"
        with Journald(left):
            os.link(left, Path(folder) / "left")
        Journal(stream, Path(folder) / "left").send(Level.ERROR, "said")
    assert (tmp_path / "stream").read_text() == "<3>said\n"
    assert journald.entries == []


def test_the_last_word_goes_by_the_stream_of_which_the_journal_knows_whose_it_is(
    journald: Journald, tmp_path: Path, stream: int
) -> None:
    Journal(stream, journald.path).send_last(Level.ERROR, "there is no memory")
    assert (tmp_path / "stream").read_text() == "<3>there is no memory\n"


def test_where_neither_takes_it_the_run_goes_on(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        Journal(full.fileno(), tmp_path / "none").send(Level.ERROR, "lost")


# Which stream is the journal


def test_only_a_stream_that_is_the_journal_makes_one(
    tmp_path: Path, stream: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "other").open("wb") as other:
        monkeypatch.setenv("JOURNAL_STREAM", stream_id(stream))
        assert Journal.of_streams((other.fileno(), stream)) == Journal(stream)
        assert Journal.of_streams((other.fileno(),)) is None


@pytest.mark.parametrize("value", [None, "", "1:2", "nonsense", ":", "1", "1:2:3"])
def test_a_variable_of_someone_else_makes_none(stream: int, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if value is not None:
        monkeypatch.setenv("JOURNAL_STREAM", value)
    assert Journal.of_streams((stream,)) is None


def test_a_closed_stream_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open("wb") as file:
        monkeypatch.setenv("JOURNAL_STREAM", stream_id(file.fileno()))
        closed = file.fileno()
    assert Journal.of_streams((closed,)) is None
