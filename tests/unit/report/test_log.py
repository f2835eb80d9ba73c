"""The log of a service: entries with the run's fields, and a file that outlives logrotate and many runs."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.journald import Journald
from support.memories import make_memory, node

from nimad.events import run as e
from nimad.events import service as s
from nimad.events.result import Outcome, Result
from nimad.report.level import Level
from nimad.report.listener import ServiceListener
from nimad.report.log.sinks import Log

STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "


@pytest.fixture
def journald() -> Iterator[Journald]:
    with tempfile.TemporaryDirectory() as folder, Journald(Path(folder) / "socket") as listening:  # a short path
        yield listening


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 7)])


@pytest.fixture
def said() -> list[str]:
    """What the console was told."""
    return []


@pytest.fixture
def log(source: Path, said: list[str]) -> Iterator[Log]:
    log = Log("INFO", said.append, source)
    yield log
    log.close()


def log_of(source: Path) -> Path:
    return source.with_name("migration.log")


def texts(lines: str | list[str]) -> list[str]:
    """The lines without their stamps; each must have one."""
    found = lines.splitlines() if isinstance(lines, str) else lines
    assert [line for line in found if not re.match(STAMP, line)] == []
    return [re.sub("^" + STAMP, "", line) for line in found]


def started(path: Path) -> e.Started:
    return e.Started(str(path), "graph.ladybug.migrating", {}, 0)


def loaded(number: int, table: str = "memory_nodes") -> e.BatchLoaded:
    return e.BatchLoaded(table, number, 20, 500, 500 * number, 10_000, 95.0, 1.0)


def failed(stack: str = "") -> e.BatchFailed:
    return e.BatchFailed(2, 4, "the worker was ended by SIGKILL", 5.0, 500, stack)


# Entries


def entries_of(journald: Journald, source: Path, *events: e.Event) -> list[dict[str, str]]:
    log = Log("DEBUG", None, source, journald.journal())
    listener = ServiceListener(log)
    for event in events:
        listener(event)
    log.close()
    return journald.entries


def test_a_batch_is_found_by_its_run_phase_number_and_offset(journald: Journald, source: Path) -> None:
    _, _, entry = entries_of(journald, source, e.Analyzing(str(source)), started(log_of(source)), loaded(1))
    assert re.fullmatch("[0-9a-f]{32}", entry.pop("NIMA_RUN"))
    assert entry == {
        "MESSAGE": "Batch 1/20 (5.0% complete, ETA: 95s)",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "nimad",
        "NIMA_PHASE": "loading memory_nodes",
        "NIMA_BATCH": "1",
        "NIMA_OFFSET": "500",
    }


def test_a_failed_batch_warns_with_its_attempt_and_the_workers_last_words_are_one_entry(
    journald: Journald, source: Path
) -> None:
    last_words = 'Fatal Python error\n\nThread 1:\n  File "x.py"'
    before, line, stack, after = entries_of(journald, source, loaded(1), failed(last_words), e.BatchRecovered(3))
    assert before["NIMA_BATCH"] == "1"
    assert line["MESSAGE"].startswith("Batch failed (attempt 2/4): the worker was ended by SIGKILL. ")
    assert stack["MESSAGE"] == f"What the worker said last:\n{last_words}"
    for entry in (line, stack):
        assert (entry["PRIORITY"], entry["NIMA_OFFSET"], entry["NIMA_ATTEMPT"]) == ("4", "500", "2")
        assert entry["NIMA_PHASE"] == "loading memory_nodes"
        assert "NIMA_BATCH" not in entry
    assert (after["NIMA_OFFSET"], after["NIMA_ATTEMPT"]) == ("500", "3")


def test_the_phases_of_a_run_are_those_of_the_state_file(journald: Journald, source: Path) -> None:
    events = (
        e.Analyzing(str(source)),
        started(log_of(source)),
        loaded(1),
        e.Compacted(2, 1),
        failed(),
        loaded(1, "memory_edges"),
        e.TableLoaded("memory_edges", 10, 10),
        e.Verifying("full"),
        e.Indexed(),
        e.Published("graph.ladybug", 1, None),
        e.Finished(Result(outcome=Outcome.COMPLETE, target="graph.ladybug")),
    )
    entries = entries_of(journald, source, *events)
    phases = [entry["NIMA_PHASE"] for entry in entries]
    nodes, edges = "loading memory_nodes", "loading memory_edges"
    assert phases[: len(events) - 1] == [
        *("analyzing", nodes, nodes, "compacting", nodes, edges, edges),
        *("verifying", "indexing", "publishing"),
    ]
    assert set(phases[len(events) - 1 :]) == {"complete"}
    assert len({entry["NIMA_RUN"] for entry in entries}) == 1
    assert "NIMA_OFFSET" not in entries[-1]


def test_each_run_has_an_id_of_its_own_and_what_is_between_has_none(journald: Journald, source: Path) -> None:
    log = Log("INFO", None, source, journald.journal())
    listener = ServiceListener(log)
    listener(e.Analyzing(str(source)))
    log.error("The source is closed to us")
    listener(s.Followed(str(source), str(log_of(source))))
    log.write(Level.INFO, "Waiting for the memory to change")
    listener(e.Analyzing(str(source)))
    first, of_first, between, second = journald.entries
    assert first["NIMA_RUN"] == of_first["NIMA_RUN"] != second["NIMA_RUN"]
    assert of_first["PRIORITY"] == "3"
    assert between["NIMA_PHASE"] == "following"
    assert "NIMA_RUN" not in between


def test_a_traceback_is_one_entry_and_is_whole_in_the_file(journald: Journald, source: Path) -> None:
    log = Log("INFO", None, source, journald.journal())
    log.open(log_of(source))
    log.exception("Traceback (most recent call last):\n  {braces} <red>\nValueError: no\n")  # noqa: LOG004 - a text
    log.close()
    (entry,) = journald.entries
    assert entry["MESSAGE"] == "Traceback (most recent call last):\n  {braces} <red>\nValueError: no"
    assert entry["PRIORITY"] == "3"
    assert log_of(source).read_text().endswith(f"[ERROR] {entry['MESSAGE']}\n")


def test_without_the_journal_a_service_says_the_lines_of_the_guide(log: Log, said: list[str], source: Path) -> None:
    listener = ServiceListener(log)
    for event in (e.Analyzing(str(source)), started(log_of(source)), loaded(1)):
        listener(event)
    assert texts(said) == [
        "[INFO] Analyzing source database...",
        "[INFO] Starting migration...",
        "[INFO] Batch 1/20 (5.0% complete, ETA: 95s)",
    ]
    assert log_of(source).read_text().splitlines() == said


def test_lines_that_waited_for_the_file_keep_the_second_in_which_they_were_said(
    log: Log, said: list[str], source: Path
) -> None:
    log.write(Level.INFO, "early")
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.02)
    log.open(log_of(source))
    log.write(Level.INFO, "late")
    assert log_of(source).read_text().splitlines() == said
    assert said[0].split("]")[0] != said[1].split("]")[0]


def test_what_a_terminal_would_obey_is_shown_and_not_done(
    log: Log, said: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.begin(source)
    log.open(log_of(source))
    ServiceListener(log)(e.HookRan("on_complete", 0, "", "done\x1b]0;owned\x07\x9b2J\tin time", 0.1))
    log.last("no memory \x1b[2J")
    log.close()
    line = "[INFO] on_complete says: done?]0;owned??2J\tin time"
    assert texts(said)[0] == line
    assert texts(log_of(source).read_text())[::2] == [line, "[ERROR] no memory ?[2J"]
    assert capsys.readouterr().err.endswith("[ERROR] no memory ?[2J\n")


def fail_with(log: Log, text: str) -> None:
    try:
        int(text)
    except ValueError:
        log.exception(text)
        raise


def test_no_name_or_text_forges_a_line(
    log: Log, said: list[str], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of this name, what a hook says, what a worker said last, an error: none begins an entry of its own."""
    forged = "x\n[2026-11-30 00:00:00] [INFO] ✅ Migration completed successfully!"
    log.open(log_of(source))
    tell = ServiceListener(log)
    tell(e.HookRan("on_complete", 0, "", forged, 0.1))
    log.write(Level.WARN, f"Left out: {forged}\u2028\u202ex")
    log.keep(Level.WARN, "What the worker said last:", forged)
    with suppress(ValueError):
        fail_with(log, forged)
    log.last(forged)
    log.close()
    for text in (log_of(source).read_text(), "\n".join(said), capsys.readouterr().err):
        assert not re.search(r"^\[2026-11-30 00:00:00\] \[INFO\] ✅", text, re.MULTILINE)
        assert not set(text) & {"\u2028", "\u202e"}


def test_a_level_can_be_changed_at_any_time(log: Log, said: list[str], source: Path) -> None:
    log.open(log_of(source))
    for level in ("WARN", "DEBUG"):
        log.set_level(level)
        for each in Level:
            log.write(each, f"{each} at {level}")
    wanted = ["[WARN] WARN at WARN", "[ERROR] ERROR at WARN", *(f"[{each}] {each} at DEBUG" for each in Level)]
    assert texts(said) == wanted
    assert texts(log_of(source).read_text()) == wanted


# A unit


# logrotate


@pytest.fixture
def opened(log: Log, source: Path) -> Log:
    log.open(log_of(source))
    log.write(Level.INFO, "before")
    return log


def test_after_a_move_the_next_line_makes_a_new_file_for_its_owner_alone(opened: Log, source: Path) -> None:
    path = log_of(source)
    path.rename(old := path.with_suffix(".log.1"))
    mask = os.umask(0)
    try:
        opened.write(Level.INFO, "after")
    finally:
        os.umask(mask)
    opened.write(Level.INFO, "and on")
    assert texts(old.read_text()) == ["[INFO] before"]
    assert texts(path.read_text()) == ["[INFO] after", "[INFO] and on"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_removed_log_is_made_anew(opened: Log, source: Path, said: list[str]) -> None:
    log_of(source).unlink()
    opened.write(Level.INFO, "after")
    assert texts(log_of(source).read_text()) == ["[INFO] after"]
    assert texts(said) == ["[INFO] before", "[INFO] after"]


def test_copytruncate_leaves_no_hole(opened: Log, source: Path) -> None:
    path = log_of(source)
    shutil.copy(path, path.with_suffix(".log.1"))
    os.truncate(path, 0)
    opened.write(Level.INFO, "after")
    assert texts(path.read_text()) == ["[INFO] after"]


def test_a_file_that_logrotate_created_is_gone_on_with(opened: Log, source: Path) -> None:
    path = log_of(source)
    path.rename(path.with_suffix(".log.1"))
    path.touch()
    opened.write(Level.INFO, "after")
    assert texts(path.read_text()) == ["[INFO] after"]


def test_a_log_that_was_moved_away_last_is_not_made_anew_at_the_end(opened: Log, source: Path) -> None:
    log_of(source).unlink()
    opened.close()
    assert not log_of(source).exists()


def test_a_folder_that_is_gone_stays_gone(opened: Log, source: Path, said: list[str]) -> None:
    """`rm -r memory; mv backup memory` would otherwise put the backup into the folder that we made."""
    folder = source.parent
    folder.rename(folder.with_name("moved"))
    opened.write(Level.INFO, "after")
    opened.close()
    assert not folder.exists()
    assert texts(said)[1:] == [
        "[WARN] The log file cannot be written any more (No such file or directory)",
        "[INFO] after",
    ]


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_what_is_no_file_of_ours_is_left_alone(opened: Log, source: Path, said: list[str], kind: str) -> None:
    path, other = log_of(source), source.with_name("other")
    path.unlink()
    other.write_text("mine")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    for text in ("after", "and on"):
        opened.write(Level.INFO, text)
    assert other.read_text() == "mine"
    assert [line for line in texts(said) if "cannot be written any more" in line] == texts(said)[1:2]
    assert texts(said)[2:] == ["[INFO] after", "[INFO] and on"]


# Many runs


def run(listener: ServiceListener, source: Path, path: Path, number: int) -> None:
    for event in (e.Analyzing(str(source)), started(path), loaded(number)):
        listener(event)


def test_over_two_runs_no_line_is_doubled(log: Log, source: Path, said: list[str]) -> None:
    listener = ServiceListener(log)
    for number in (1, 2):
        run(listener, source, log_of(source), number)
    assert len(said) == 6
    assert log_of(source).read_text().splitlines() == said


def test_a_second_log_in_one_process_does_not_double_lines(log: Log, source: Path, said: list[str]) -> None:
    log.open(log_of(source))
    log.close()
    second = Log("INFO", said.append, source)
    second.open(log_of(source))
    second.write(Level.INFO, "once")
    second.close()
    assert texts(said) == texts(log_of(source).read_text()) == ["[INFO] once"]


def test_another_path_closes_the_first(log: Log, source: Path) -> None:
    listener = ServiceListener(log)
    paths = source.with_name("a.log"), source.with_name("b.log")
    for number, path in enumerate(paths, 1):
        run(listener, source, path, number)
    assert "Batch 1/20" in paths[0].read_text()
    assert "Batch 2/20" not in paths[0].read_text()
    assert "Batch 2/20" in paths[1].read_text()
    assert str(paths[1]) in open_files()
    assert str(paths[0]) not in open_files()


def open_files() -> set[str]:
    return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


def test_what_is_said_of_a_run_that_wrote_nothing_is_not_in_the_file_of_the_next(log: Log, source: Path) -> None:
    listener = ServiceListener(log)
    listener(e.Analyzing(str(source)))
    log.error("too little memory")
    run(listener, source, log_of(source), 1)
    assert "too little memory" not in log_of(source).read_text()
    assert log_of(source).read_text().count("Analyzing") == 1


def test_a_log_that_cannot_be_written_is_said_once_and_tried_at_each_run(
    log: Log, source: Path, said: list[str]
) -> None:
    listener, path = ServiceListener(log), log_of(source)
    path.mkdir()
    for number in (1, 2):
        run(listener, source, path, number)
    refusals = [line for line in texts(said) if "No log file" in line]
    assert refusals == [f"[WARN] No log file {path} (Is a directory); going on without"]
    path.rmdir()
    run(listener, source, path, 3)
    assert [line.split("/")[0] for line in texts(path.read_text())] == [
        "[INFO] Analyzing source database...",
        "[INFO] Starting migration...",
        "[INFO] Batch 3",
    ]


# loguru leaves a file that cannot be flushed to be closed with its last reference.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_under_the_log_is_said_once_and_the_run_goes_on(log: Log, source: Path, said: list[str]) -> None:
    listener = ServiceListener(log)
    for number in (1, 2):
        run(listener, source, Path("/dev/full"), number)
    assert [line for line in texts(said) if "WARN" in line] == [
        "[WARN] The log file cannot be written any more (No space left on device)"
    ]
    assert len(said) == 7
    assert "/dev/full" not in open_files()


def test_a_name_that_is_no_text_does_not_stop_the_log(log: Log, source: Path) -> None:
    log.open(log_of(source))
    log.write(Level.INFO, os.fsdecode(b"\xff.sqlite"))
    assert texts(log_of(source).read_text()) == ["[INFO] \\udcff.sqlite"]
