"""`nimad status`: how a migration stands, told by its lock and its process and not by what the state file claims.

The screen of a finished one is kept in `tests/golden/status.txt`; renew it with NIMAD_UPDATE_GOLDEN=1.
"""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.commands import GOLDEN, Ran, command, environment, nimad
from support.memories import copied, edge, make_memory, migrate, node, turn
from support.services import service
from test_bad_input import everything_in, restricted
from test_pausing import begin, said_by, wait_for

from nimad.config import Settings
from nimad.diagnostics import processes
from nimad.diagnostics.migration_status import MigrationStatus
from nimad.diagnostics.processes import _options, process
from nimad.diagnostics.status import Status
from nimad.diagnostics.status import status as ask
from nimad.engines import packages
from nimad.report.console.symbols import Symbols
from nimad.report.messages.status_screen import headline, lines

__all__ = ["restricted"]

WAIT_S = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished migration, which the tests copy or only read."""
    folder = tmp_path_factory.mktemp("made")
    nodes = [node(key) for key in range(1, 61)]
    source = make_memory(folder / "graph.sqlite", nodes=nodes, edges=[edge(1, 1, 2)], turns=[turn(1, 1, None, 3)])
    migrated = nimad(folder, "migrate", "--source", source, "--reader-python", "none")
    assert migrated.code == 0
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """The same files, for a test that changes them."""
    return copied(made, tmp_path)


@pytest.fixture
def memory(made: Path, tmp_path: Path) -> Path:
    """The memory alone."""
    return Path(shutil.copy(made / "graph.sqlite", tmp_path))


def status(folder: Path) -> Status:
    return ask(Settings(source=folder / "graph.sqlite"))


def asked(folder: Path) -> tuple[Ran, dict[str, Any]]:
    done = nimad(folder, "status", "--source", "graph.sqlite", "--json")
    assert done.err == ""
    found = json.loads(done.out)
    assert found["exit_code"] == done.code
    return done, found


def tell(folder: Path, **facts: Any) -> None:
    """Have the state file say something else."""
    file = folder / "graph.ladybug.state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


# A finished one


def test_the_screen_of_a_finished_migration_is_the_golden_one(made: Path) -> None:
    before = everything_in(made)
    done = nimad(made, "status", "--source", "graph.sqlite")
    assert (done.code, done.err) == (0, "")
    page = done.out.replace(str(made), "FOLDER").replace(f"{sys.executable} -P -m nimad", "nimad")
    page = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(\d+ s\)", "TIME", page)
    page = re.sub(r"^  \d\d:\d\d:\d\d ", "  HH:MM:SS ", page, flags=re.MULTILINE)
    page = re.sub(r"\d+\.\d+s$", "0.0s", page, flags=re.MULTILINE)
    if os.environ.get("NIMAD_UPDATE_GOLDEN") == "1":
        (GOLDEN / "status.txt").write_text(page)
    assert page == (GOLDEN / "status.txt").read_text()
    assert len(done.out.splitlines()) <= 23
    assert everything_in(made) == before


def test_without_utf_8_the_screen_is_drawn_in_plain_signs(made: Path) -> None:
    done = nimad(made, "status", "--source", "graph.sqlite", PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    assert "Memories  ############################ 100 %" in done.out


def test_rows_in_quarantine_are_exit_code_1_and_the_way_to_look_at_them(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, timestamp="noon")])
    migrate(source, reader_python=Path("none"))
    done = nimad(tmp_path, "status", "--source", source)
    assert done.code == 1
    assert "Complete, 1 entry in quarantine" in done.out
    assert f"quarantine list --target {tmp_path}/graph.ladybug" in done.out
    (tmp_path / "graph.ladybug.quarantine.jsonl").unlink()
    assert (status(tmp_path).lacking, status(tmp_path).exit_code) == (1, 1)


def test_a_target_that_was_taken_away_is_said_to_be(finished: Path) -> None:
    assert (status(finished).stand, status(finished).exit_code) == (MigrationStatus.COMPLETE, 0)
    (finished / "graph.ladybug").unlink()
    found = status(finished)
    assert (found.stand, found.exit_code) == (MigrationStatus.GONE, 75)
    assert found.steps[0][1].endswith("--replace")


def test_a_file_in_the_place_of_the_target_is_not_said_to_hold_what_that_held(finished: Path) -> None:
    target = finished / "graph.ladybug"
    assert (bool(status(finished).counts), status(finished).names) == (True, [])
    shutil.copy(target, finished / "another")
    target.unlink()
    (finished / "another").rename(target)
    os.utime(target, (1, 1))
    found = status(finished)
    assert (found.stand, found.exit_code, found.counts) == (MigrationStatus.COMPLETE, 0, [])
    assert "another file than the one that was published" in found.names[0]
    assert any(found.names[0] in line.text for line in lines(found, Symbols()))
    assert found.steps[0][0] == "Compare it with SQLite:"


def test_a_target_of_which_no_run_tells_is_not_called_complete(finished: Path) -> None:
    (finished / "graph.ladybug.state.json").unlink()
    assert (status(finished).stand, status(finished).exit_code) == (MigrationStatus.UNTOLD, 4)


def test_a_target_of_another_source_is_said_to_be_one(finished: Path) -> None:
    other = Path(shutil.copy(finished / "graph.sqlite", finished / "other.sqlite"))
    state = finished / "graph.ladybug.state.json"
    state.write_text(state.read_text().replace(json.loads(state.read_text())["source"]["path"], "/elsewhere/a.sqlite"))
    found = ask(Settings(source=other))
    assert (found.stand, found.made_from) == (MigrationStatus.COMPLETE, "/elsewhere/a.sqlite")
    page = [line.text for line in lines(found, Symbols())]
    assert "  made from another source: /elsewhere/a.sqlite" in page


def test_one_that_was_rolled_back_is_paused_since(finished: Path) -> None:
    (finished / "graph.ladybug").unlink()
    tell(finished, phase="rolled back")
    (finished / "graph.ladybug.paused").touch()
    found = status(finished)
    assert found.stand is MigrationStatus.PAUSED
    assert headline(found) == "Rolled back, and paused since; no process is running"


# Nothing


def test_with_nothing_there_it_says_how_to_begin(memory: Path) -> None:
    done = nimad(memory.parent, "status", "--source", memory)
    assert (done.code, done.err) == (4, "")
    assert "Nothing has been migrated here; no process is running" in done.out
    assert f"Begin with: {sys.executable} -P -m nimad migrate --source {memory}" in done.out
    nowhere = nimad(memory.parent, "status")
    assert (nowhere.code, nowhere.err) == (4, "")
    assert "There is no memory there; name it with:" in nowhere.out


def test_what_it_says_to_type_runs_nothing_of_the_folder_it_is_typed_in(memory: Path, tmp_path: Path) -> None:
    """A name of ours there, or of what we import, is somebody else's program."""
    hostile = tmp_path / "hostile"
    for name in ("nimad", "loguru", "pip"):
        (hostile / name).mkdir(parents=True)
        for file in ("__init__.py", "__main__.py"):
            (hostile / name / file).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    begin_with = nimad(tmp_path, "status", "--source", memory).out.partition("Begin with: ")[2].splitlines()[0]
    pips = [f"{packages.pip(python)} --version" for python in (sys.executable, shutil.which("python3") or "")]
    for line in (f"{begin_with} --dry-run", *pips):
        words = ["sh", "-c", line]
        done = subprocess.run(words, cwd=hostile, env=environment(tmp_path), capture_output=True, check=False)
        assert done.returncode == 0 or "pip" in line, done.stderr
        assert not (tmp_path / "ran").exists(), line


# At work, and killed


def test_it_tells_of_a_run_at_work_and_of_its_worker_and_does_not_believe_a_killed_one(memory: Path) -> None:
    folder = memory.parent
    with begin(memory, "--fixed-batch", "6") as run:
        wait_for(lambda: "Batch 2/" in said_by(memory).read_text())
        seen: list[dict[str, Any]] = []

        def has_worker() -> bool:
            seen.append(asked(folder)[1])
            return seen[-1]["stand"] != "running" or seen[-1]["memory"] is not None

        wait_for(has_worker)
        run.send_signal(signal.SIGKILL)
        run.wait(WAIT_S)
    found = seen[-1]
    assert (found["stand"], found["exit_code"]) == ("running", 3)
    assert found["at_work"] == {"pid": run.pid, "command": "nimad migrate"}
    assert found["phase"].startswith(("loading", "counting", "verifying"))
    assert 12 <= found["counts"]["memory_nodes"]["done"] <= found["counts"]["memory_nodes"]["of"] == 60
    assert found["memory"]["used"] > 10_000_000
    assert found["memory"]["planned"] > 100_000_000

    killed = nimad(folder, "status", "--source", memory)
    assert killed.code == 75
    assert "Interrupted while loading memories; no process is working on it" in killed.out
    assert f"Go on with: {sys.executable} -P -m nimad migrate --source {memory} --target {folder}/graph" in killed.out
    assert json.loads((folder / "graph.ladybug.state.json").read_text())["phase"].startswith("loading")
    assert (folder / "graph.ladybug.lock").exists()


def test_a_run_that_stopped_says_why_and_a_pause_is_said_with_and_without_a_run(memory: Path) -> None:
    folder, target = memory.parent, memory.with_name("graph.ladybug")
    with begin(memory, "--fixed-batch", "6") as run:
        wait_for(lambda: "Batch 2/" in said_by(memory).read_text())
        nimad(folder, "pause", "--target", target)
        wait_for(lambda: "Paused; go on with: " in said_by(memory).read_text())
        paused = status(folder)
        assert (paused.stand, paused.exit_code) == (MigrationStatus.PAUSED, 3)
        assert paused.at_work is not None
        assert paused.at_work.pid == run.pid
        run.send_signal(signal.SIGTERM)
        assert run.wait(WAIT_S) == 75
    alone = status(folder)
    assert (alone.stand, alone.exit_code, alone.at_work) == (MigrationStatus.PAUSED, 75, None)
    assert "resume" in alone.steps[0][1]
    nimad(folder, "resume", "--target", target)
    stopped = status(folder)
    assert (stopped.stand, stopped.exit_code) == (MigrationStatus.INTERRUPTED, 75)
    assert stopped.why.startswith("stopped; ")
    assert stopped.phase == "loading memory_nodes"


# Beside a service


def test_beside_the_service_it_follows_a_complete_target_and_knows_the_daemon(tmp_path: Path, memory: Path) -> None:
    with service(tmp_path) as daemon:
        daemon.wait_for_status("^Complete")
        wait_for(lambda: status(tmp_path).stand is MigrationStatus.FOLLOWING)
        done = nimad(tmp_path, "status", "--source", memory)
        assert done.code == 0
        assert f"Complete; what comes late is added (nimad run, PID {daemon.process.pid})" in done.out
        daemon.stop()
    assert status(tmp_path).stand is MigrationStatus.COMPLETE


def test_a_service_that_waits_for_openclaw_says_what_for(tmp_path: Path, memory: Path) -> None:
    with service(tmp_path, "--trigger", "openclaw") as daemon:
        daemon.wait_for_status("^Waiting")
        done = nimad(tmp_path, "status", "--source", memory)
        assert done.code == 3
        assert f"Waiting (nimad run, PID {daemon.process.pid})" in done.out
        assert f"{tmp_path}/.openclaw/openclaw.json does not exist" in done.out


# Watching


def watched(memory: Path, output: Path) -> "subprocess.Popen[bytes]":
    words = command("status", "--source", memory, "--watch")
    with output.open("wb") as file:
        return subprocess.Popen(words, env=environment(memory.parent), stdout=file, stderr=subprocess.STDOUT)


def test_watched_in_a_pipe_it_says_a_line_at_each_change_and_ends_by_ctrl_c(memory: Path, tmp_path: Path) -> None:
    output = tmp_path / "watched"
    with watched(memory, output) as watching:  # which must not take the lock, or the run would be refused
        wait_for(lambda: b"Nothing has been migrated" in output.read_bytes())
        assert nimad(memory.parent, "migrate", "--source", memory, "--reader-python", "none").code == 0
        wait_for(lambda: b"  Complete" in output.read_bytes())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(WAIT_S) == 0
    said = output.read_text().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  \w", line) for line in said)
    assert said[-1].endswith("Complete  nodes 60 of 60  edges 1 of 1  turns 1 of 1")
    assert len(said) == len({line[8:] for line in said})


def test_watched_it_ends_when_nobody_reads_any_more(made: Path) -> None:
    words = command("status", "--source", made / "graph.sqlite", "--watch")
    with subprocess.Popen(words, env=environment(made), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert b"Complete" in watching.stdout.readline()
        watching.stdout.close()
        assert watching.wait(WAIT_S) == 0
        assert watching.stderr is not None
        assert watching.stderr.read() == b""


def test_watched_on_a_terminal_it_is_drawn_in_place_and_stays_after_ctrl_c(made: Path) -> None:
    master, slave = pty.openpty()
    words = command("status", "--source", made / "graph.sqlite", "--watch")
    terminal = environment(made, TERM="xterm", COLUMNS="80", LINES="24", PYTHONIOENCODING="utf-8")
    with subprocess.Popen(words, env=terminal, stdin=slave, stdout=slave, stderr=slave) as watching:
        os.close(slave)
        shown = bytearray()
        wait_for(lambda: b"Compare it" in read_some(master, shown))
        watching.send_signal(signal.SIGINT)
        wait_for(lambda: watching.poll() is not None or not read_some(master, shown))
        assert watching.wait(WAIT_S) == 0
    read_some(master, shown)
    os.close(master)
    text = shown.decode(errors="replace")
    assert "\x1b[?1049h" in text
    left = text.rpartition("\x1b[?1049l")[2]
    assert "Complete" in left
    assert "Traceback" not in text
    assert "KeyboardInterrupt" not in text


def read_some(master: int, shown: bytearray) -> bytearray:
    """Add what the terminal has got meanwhile."""
    os.set_blocking(master, False)
    try:
        while data := os.read(master, 65_536):
            shown += data
    except OSError:  # nothing more for now, or nobody writes any more
        pass
    return shown


# What people and other programs did to the files


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"[]",
        b"[" * 100_000,
        b'{"format": 1, "phase": 5, "counts": [], "published": "x", "plan": 7, "tables": 3, "started": null}',
    ],
)
def test_a_state_file_that_says_nothing_is_no_traceback(finished: Path, content: bytes) -> None:
    (finished / "graph.ladybug.state.json").write_bytes(content)
    found = status(finished)
    assert list(lines(found, Symbols()))
    assert found.exit_code in (0, 4)


@pytest.mark.parametrize("noted", [{"modified_ns": None}, {"modified_ns": [1]}, {"inode": "one"}])
def test_numbers_that_are_none_are_no_traceback(finished: Path, noted: dict[str, Any]) -> None:
    size = (finished / "graph.ladybug").stat().st_size
    tell(finished, file={"bytes": size, "modified_ns": 1, **noted}, followed={})
    assert status(finished).stand is MigrationStatus.UNTOLD


def test_files_that_are_closed_to_this_user_are_exit_code_77(finished: Path, restricted: list[str]) -> None:
    (finished / "graph.ladybug.state.json").chmod(0)
    done = nimad(finished, "status", "--source", "graph.sqlite", prefix=restricted)
    assert done.code == 77
    assert "graph.ladybug.state.json may not be opened by this user" in done.error


def test_a_pid_in_a_lock_file_that_nobody_holds_is_not_believed(finished: Path) -> None:
    (finished / "graph.ladybug.lock").write_text(f"{os.getpid()}\n")
    tell(finished, phase="loading memory_nodes")
    (finished / "graph.ladybug").rename(finished / "graph.ladybug.migrating")
    found = status(finished)
    assert (found.stand, found.at_work) == (MigrationStatus.INTERRUPTED, None)


def test_a_service_of_somebody_elses_without_any_option_is_not_ours(tmp_path: Path, memory: Path) -> None:
    with subprocess.Popen(command("run"), env=environment(tmp_path), stderr=subprocess.DEVNULL) as other:
        wait_for(lambda: other.poll() is not None or processes.process(other.pid) is not None)
        assert _options([]) == {}
        assert (status(memory.parent).stand, status(memory.parent).at_work) == (MigrationStatus.NOTHING, None)
        other.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else as well")
def test_a_process_of_somebody_elses_is_no_service_of_ours_whatever_it_calls_itself(finished: Path) -> None:
    fifo = finished / "nimad.toml"
    os.mkfifo(fifo)  # that we would wait for
    words = ["nimad", "run", "--target", str(finished / "graph.ladybug"), "--config", str(fifo)]
    with subprocess.Popen(["sh", "-c", "sleep 300 & wait", *words], user=61_002, start_new_session=True) as other:
        wait_for(lambda: (found := processes.process(other.pid)) is not None and found.is_service)
        try:
            assert (status(finished).stand, status(finished).at_work) == (MigrationStatus.COMPLETE, None)
        finally:
            os.killpg(other.pid, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else as well")
@pytest.mark.parametrize("end", ["\r", "\x0b", "\x1c"])
def test_a_process_that_calls_itself_a_line_of_the_kernels_is_not_roots(end: str) -> None:
    name = f"x{end}Uid:\t0".encode()
    renamed = f"import ctypes, os, time; os.setuid(61_002); ctypes.CDLL(None).prctl(15, {name!r}); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", renamed]) as other:
        try:
            wait_for(lambda: b"Uid:\t0\nUmask" in Path(f"/proc/{other.pid}/status").read_bytes())
            assert processes._user(other.pid) == 61_002
        finally:
            other.kill()


def test_a_process_is_named_as_people_know_it() -> None:
    ours = process(os.getpid())
    assert ours is not None
    assert abs(ours.started - time.time()) < 24 * 3_600
    assert not ours.is_service
    assert process(2**22 + 1) is None
