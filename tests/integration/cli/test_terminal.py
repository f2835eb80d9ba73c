"""Terminals that close, pipes that nobody reads, streams that take nothing: a run stops or goes on, and never fails.

What stops it is a signal. That nobody hears what it says does not; and what is asked for is not taken for answered.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.commands import TIMEOUT_S, assert_complete, command, environment, nimad
from support.memories import make_memory, node

from nimad.errors import ExitCode

SLOWLY = ("--batch-size", "20", "--fixed-batch", "--nodes-only", "--verify", "none")
NODES = 400
#: A shell's redirection, before the words of a command.
Shell = tuple[str, str, str, str]


def shell(redirection: str) -> Shell:
    return ("sh", "-c", f'exec "$@" {redirection}', "sh")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return make_memory(tmp_path / "graph.sqlite", nodes=[node(number) for number in range(1, NODES + 1)])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)])


def failures_told(folder: Path) -> Path:
    """A settings file whose hook notes that a run has failed; return what it would write."""
    (folder / "nimad.toml").write_text(f"[hooks]\non_failure = ['touch', '{folder}/failed']\n")
    return folder / "failed"


def kept(folder: Path) -> int:
    """How many memories the log says are kept by a run that was stopped."""
    found = re.search(rf"\[ERROR\] stopped; (\d+) of {NODES} nodes are kept\. Go on with: ", log(folder))
    assert found, log(folder)
    return int(found[1])


def log(folder: Path) -> str:
    with suppress(FileNotFoundError):
        return (folder / "migration.log").read_text()
    return ""


def wait_for_batches(folder: Path, process: "subprocess.Popen[bytes]", batches: int = 2) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while f"Batch {batches}/" not in log(folder) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, log(folder)


# A terminal that is closed


@contextmanager
def on_a_terminal(folder: Path, *words: str | Path, **more: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start the command as a shell does that ssh started: in a session of its own, which has this terminal."""
    ours, theirs = pty.openpty()
    becomes = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", becomes, *command(*words)],
        cwd=folder,
        env=environment(folder, TERM="xterm", **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        with suppress(OSError):
            os.close(ours)
        process.wait(TIMEOUT_S)


def drained(descriptor: int) -> bytes:
    """What comes until the other end is closed."""
    said = b""
    with suppress(OSError):
        while piece := os.read(descriptor, 65_536):
            said += piece
    return said


def test_a_closed_terminal_stops_a_run_which_keeps_what_is_counted(memory: Path, tmp_path: Path) -> None:
    failed = failures_told(tmp_path)
    words = ("migrate", "--source", memory, "--config", tmp_path / "nimad.toml", *SLOWLY)
    with on_a_terminal(tmp_path, *words) as (process, terminal):
        wait_for_batches(tmp_path, process)
        os.close(terminal)  # the window is closed, or the connection lost: the kernel sends SIGHUP
        process.wait(TIMEOUT_S)
    assert process.returncode == ExitCode.INTERRUPTED
    assert 20 <= kept(tmp_path) < NODES
    assert "Input/output error" not in log(tmp_path)
    assert not failed.exists()
    assert nimad(tmp_path, "migrate", "--source", memory).code == 0
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    "redirection", ["2>&-", "2>/dev/full", ">/dev/full 2>&1", ">&- 2>&- <&-"], ids=lambda text: text.replace("/", " ")
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.sampled
def test_a_stop_is_a_stop_whoever_hears_of_it(
    memory: Path, tmp_path: Path, redirection: str, number: signal.Signals
) -> None:
    failed = failures_told(tmp_path)
    words = command("migrate", "--source", memory, "--config", tmp_path / "nimad.toml", *SLOWLY)
    with subprocess.Popen([*shell(redirection), *words], cwd=tmp_path, env=environment(tmp_path)) as process:
        wait_for_batches(tmp_path, process)
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == ExitCode.INTERRUPTED
    assert 20 <= kept(tmp_path) < NODES
    assert not failed.exists()


def test_a_stderr_that_nobody_reads_does_not_hold_up_a_stop(memory: Path, tmp_path: Path) -> None:
    """A pipe that is full, as of a program that was halted: what is written to it waits for ever."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, bytes(4_096)):
            pass
    os.set_blocking(writer, True)
    words, discard = command("migrate", "--source", memory, *SLOWLY), subprocess.DEVNULL
    with subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path), stdout=discard, stderr=writer) as process:
        os.close(writer)
        wait_for_batches(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + TIMEOUT_S
        while "[ERROR]" not in log(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert 20 <= kept(tmp_path) < NODES
        os.close(reader)
        assert process.wait(TIMEOUT_S) == ExitCode.INTERRUPTED


# Descriptors that are closed


@pytest.mark.sampled
@pytest.mark.parametrize("closed", ["0 1 2", "1", "2", "0 2"])
def test_no_file_of_ours_gets_the_number_of_a_closed_stream(small: Path, tmp_path: Path, closed: str) -> None:
    redirection = " ".join(f"{number}>&-" if number != "0" else "<&-" for number in closed.split())
    done = nimad(tmp_path, "migrate", "--source", small, prefix=shell(redirection))
    assert (done.code, done.err) == (0, "")
    assert_complete(tmp_path)
    assert nimad(tmp_path, "verify", "--source", small).code == 0
    for name in ("graph.sqlite", "graph.ladybug", "migration.log"):
        assert b"Traceback" not in (tmp_path / name).read_bytes()
        assert b"Total nodes" not in (tmp_path / name).read_bytes() or name == "migration.log"


# Commands that answer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    source = make_memory(folder / "graph.sqlite", nodes=[node(number) for number in range(1, 200)])
    assert nimad(folder, "migrate", "--source", source).code == 0
    return folder


ANSWERS: Sequence[tuple[str, ...]] = (
    ("status", "--source", "graph.sqlite"),
    ("report", "--target", "graph.ladybug", "--text"),
    ("report", "--target", "graph.ladybug", "--output", "-"),
    ("health", "--source", "graph.sqlite"),
    ("search", "--target", "graph.ladybug", "--limit", "200", "memory"),
    ("config",),
    ("doctor", "--source", "graph.sqlite", "--json"),
    ("verify", "--source", "graph.sqlite"),
    ("clean", "--source", "graph.sqlite"),
    ("rollback", "--source", "graph.sqlite"),
    ("no-such-command",),
)


@pytest.mark.sampled
@pytest.mark.parametrize("words", ANSWERS, ids=" ".join)
def test_an_answer_that_nobody_reads_ends_as_one_that_was_read(made: Path, words: tuple[str, ...]) -> None:
    """`nimad status | head -1`, and a terminal that was closed."""
    heard = nimad(made, *words)
    for redirection in ("| true", ">&-"):
        shown = ("sh", "-c", f'("$@"; echo $? >"$0.code") {redirection}', str(made / "ended"))
        done = nimad(made, *words, prefix=shown)
        assert int((made / "ended.code").read_text()) == heard.code
        assert "Traceback" not in done.err
        assert done.err == (heard.err if words == ("no-such-command",) else "")


@pytest.mark.sampled
@pytest.mark.parametrize("words", ANSWERS[:-1], ids=" ".join)
def test_an_answer_that_has_no_room_is_none(made: Path, words: tuple[str, ...]) -> None:
    done = nimad(made, *words, prefix=shell(">/dev/full"))
    assert (done.code, done.error) == (
        ExitCode.IO_ERROR,
        "the output cannot be written (No space left on device); see where it goes",
    )
    assert nimad(made, *words, prefix=shell(">/dev/full 2>&1")).code == ExitCode.IO_ERROR


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words", [("pause", "--target", "t.lbug"), ("sample", "s.sqlite", "--nodes", "9")], ids=" ".join
)
def test_what_was_done_is_done_whether_or_not_it_could_be_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = nimad(tmp_path, *words, prefix=shell(">/dev/full"))
    assert done.code == 0
    assert "[WARN] the output cannot be written (No space left on device); what was asked for is done\n" in done.err
    assert list(tmp_path.glob("[ts].*"))


# Over ssh


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("variables", "hinted"),
    [
        ({"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}, True),
        ({"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22", "TMUX": "/run/tmux-0/default,1,0"}, False),
        ({}, False),
    ],
    ids=["over ssh", "in tmux", "at home"],
)
def test_over_ssh_a_run_says_that_the_connection_would_end_it(
    small: Path, tmp_path: Path, variables: dict[str, str], *, hinted: bool
) -> None:
    away = dict.fromkeys(("SSH_CONNECTION", "TMUX", "STY", "INVOCATION_ID"), "")
    with on_a_terminal(tmp_path, "migrate", "--source", small, "--nodes-only", **{**away, **variables}) as (
        _,
        terminal,
    ):
        said = drained(terminal).decode()
    assert_complete(tmp_path)
    assert ("This run stops if the ssh connection ends" in said) is hinted
    assert ("systemctl start nima-migrate" in log(tmp_path)) is hinted


def test_without_a_terminal_a_run_over_ssh_has_nothing_to_lose(small: Path, tmp_path: Path) -> None:
    over = {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22", "TMUX": "", "STY": "", "INVOCATION_ID": ""}
    done = nimad(tmp_path, "migrate", "--source", small, prefix=("setsid", "--wait"), **over)
    assert (done.code, "ssh" in done.out) == (0, False)
