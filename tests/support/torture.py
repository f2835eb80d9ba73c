"""What the tests that hurt share: real runs as processes, real signals, and a look at what was left behind.

>>> life = Life(source, "--fixed-batch", "50")
>>> life.wait_for("Batch 3/")
>>> life.kill()
>>> run_to_the_end(source)
>>> assert_nothing_left(target)
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import ladybug
import pytest

import nimad
from nimad.errors import StoppedError
from nimad.events.run import Event
from nimad.sample import Sample, write_sample
from nimad.supervisor.outcome import ExitStatus, WorkerResult, classify
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Job, Task
from support.memories import ENGINE_LIMITS, assert_same, read_quarantine

#: What no finished run leaves beside its target: all names that begin with the target's, but these.
MAY_STAY = (".state.json", ".quarantine.jsonl", ".ledger", ".runs.jsonl")
#: Seconds after which a process that should have ended is called stuck.
PATIENCE_S = 90.0
#: Seconds between two looks at the folder while a run goes on, and at what it says, all of which is read each time.
LOOK_S, LISTEN_S = 0.003, 0.01


# Memories


def small_memory(path: Path, nodes: int = 800, dimension: int = 32, seed: int = 1) -> Path:
    """A sample that takes a run a few seconds."""
    write_sample(path, Sample(nodes=nodes, dimension=dimension, seed=seed, full_text_index=False))
    return path


def target_of(source: Path) -> Path:
    return source.with_name("graph.ladybug")


def beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def staging_of(source: Path) -> Path:
    return beside(target_of(source), ".migrating")


def last_ids(source: Path) -> dict[str, int]:
    """The highest id of each table: what bounds a run that begins now."""
    with closing(sqlite3.connect(source)) as connection:
        tables = ("memory_nodes", "memory_edges", "memory_turns")
        return {name: connection.execute(f"SELECT coalesce(max(id), 0) FROM {name}").fetchone()[0] for name in tables}


def assert_all_there(source: Path, target: Path, bounds: Mapping[str, int] | None = None) -> None:
    """Fail unless every row up to `bounds` is in the target as it is in SQLite, but for what is in quarantine."""
    copy = target.with_name(f"compared-{time.monotonic_ns()}.sqlite")
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(copy)) as other:
        connection.backup(other)
        for table, last in (bounds or {}).items():
            other.execute(f"DELETE FROM {table} WHERE id > ?", (last,))
        for entry in read_quarantine(target):
            _take_out(other, entry)
        other.commit()
    assert_same(copy, target)
    copy.unlink()


def _take_out(connection: sqlite3.Connection, entry: Mapping[str, Any]) -> None:
    table, part = entry["table"], entry["part"]
    if part == "row":
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (entry["id"],))
    else:
        column = part.replace("has_", "") + "_node_id" if part.startswith("has_") else part
        connection.execute(f"UPDATE {table} SET {column} = NULL WHERE id = ?", (entry["id"],))


@contextmanager
def opened(path: Path) -> Iterator[Callable[..., list[Any]]]:
    """A target opened for writing by the test itself: a function that runs Cypher and gives rows."""
    with (
        closing(ladybug.Database(str(path), **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):

        def ask(cypher: str, **parameters: Any) -> list[Any]:
            with closing(connection.execute(cypher, parameters or None)) as result:
                rows: list[Any] = result.get_all()
            return rows

        yield ask


# Runs in this process


def interrupted(source: Path, at: type[Event], nth: int = 1, **settings: Any) -> list[Event]:
    """Run until the n-th event of a kind, stop there, and return all events. What was counted stays."""
    heard: list[Event] = []
    stop = threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if sum(isinstance(each, at) for each in heard) >= nth:
            stop.set()

    with suppress(StoppedError):
        nimad.migrate(nimad.Settings(source=source, **settings), listen, stop)
        raise AssertionError("the run was not interrupted")
    return heard


# Runs as processes


@dataclass
class Life:
    """One `python -m nimad migrate`, from its start to its end, in a process group of its own."""

    source: Path
    options: tuple[str, ...]
    script: str | None = None
    output: Path = field(init=False)
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __init__(self, source: Path, *options: str, script: str | None = None, prefix: Sequence[str] = ()) -> None:
        self.source, self.options, self.script = source, options, script
        self.output = source.with_name(f"output-{time.monotonic_ns()}.txt")
        command = ["-c", script] if script else ["-m", "nimad", "migrate", "--source", str(source)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *command, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=source.parent,
                env={**os.environ, "HOME": str(source.parent), "PYTHONUNBUFFERED": "1"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        """The exit status, as the shell sees it or minus the signal."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            said = self.said
            self.kill()
            raise AssertionError(f"still running after {PATIENCE_S} s:\n{said}") from None

    def wait_for(self, text: str) -> None:
        """Wait until the run says something."""
        self.wait_until(lambda: text in self.said, f"{text!r} to be said")

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert not self.over, f"ended with {self.process.returncode} before {what}:\n{self.said}"
            assert time.monotonic() < deadline, f"waited too long for {what}:\n{self.said}"
            time.sleep(LISTEN_S)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the supervisor alone; its children are its own affair."""
        self.process.kill()
        self.process.wait()

    def workers(self) -> list[int]:
        """PIDs of the workers, the oldest first: it works, the younger one waits."""
        return [pid for _, pid in sorted(_workers_of(self.pid))]

    def kill_worker(self, which: int) -> bool:
        """SIGKILL one worker, 0 the oldest, -1 the youngest; False when there was none."""
        pids = self.workers()
        return bool(pids) and _kill_child(pids[0 if which == 0 else -1], self.pid)


def _workers_of(parent: int) -> Iterator[tuple[int, int]]:
    """Start time and PID of each process that was started as a worker of `parent`, orphans included."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"nimad.worker" in words and words[words.index(b"nimad.worker") + 1] == str(parent).encode():
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    if fields[0] != "Z":
                        yield int(fields[19]), int(folder.name)


def _kill_child(pid: int, parent: int) -> bool:
    """Kill through a descriptor, so that a PID that was given away meanwhile is never hit."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if all(pid != each for _, each in _workers_of(parent)):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def run_to_the_end(source: Path, *options: str) -> str:
    """Run undisturbed; it has to complete. Returns what was said."""
    with Life(source, *options) as life:
        status = life.wait()
        assert status == 0, f"exit {status}:\n{life.said}"
        return life.said


class Watch:
    """Looks at the final name all the while: it may appear only when the run says that it publishes."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.early: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(LOOK_S):
            if os.path.lexists(self.target):
                phase = state_of(self.target).get("phase")
                if phase not in ("publishing", "complete"):
                    self.early.append(f"{self.target} exists in phase {phase}")
                return


def state_of(target: Path) -> dict[str, Any]:
    """The state file; it has to be whole at any moment."""
    path = beside(target, ".state.json")
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state


def left_behind(target: Path) -> list[str]:
    """Names beside the target that a finished run should have taken away."""
    allowed = {target.name, *(target.name + suffix for suffix in MAY_STAY)}
    return sorted(
        entry.name
        for entry in target.parent.iterdir()
        if (entry.name.startswith((target.name, ".")) and entry.name not in allowed and ".backup-" not in entry.name)
    )


def exporting(target: Path) -> bool:
    """Whether a compaction is under way: its rows lie in the one folder beside the target."""
    return any(entry.is_dir() for entry in target.parent.iterdir())


def copy_of(source: Path, to: Path) -> Path:
    """A memory, and the unfinished run beside it, as if they had always been in the folder `to`."""
    for path in source.parent.iterdir():
        if path.is_file() and not path.name.startswith("output-"):
            shutil.copy(path, to / path.name, follow_symlinks=False)
    copy = to / source.name
    state = beside(target_of(copy), ".state.json")
    if state.exists():
        text = state.read_text().replace(str(source.parent), str(to))
        state.write_text(text.replace(f'"inode": {source.stat().st_ino}', f'"inode": {copy.stat().st_ino}'))
    return copy


def assert_nothing_left(target: Path) -> None:
    names = left_behind(target)
    assert names == [], f"left beside {target}: {names}"


def killed_once_done(monkeypatch: pytest.MonkeyPatch, task: Task) -> list[Job]:
    """Have the first worker that does such a job die once it is done; the jobs of those that did."""
    do, died = WorkerPool.do, list[Job]()

    def killed(self: WorkerPool, job: Job, **options: Any) -> WorkerResult:
        answer = do(self, job, **options)
        if job.task is task and not died:
            died.append(job)
            return classify(ExitStatus(-signal.SIGKILL, b"", b""))
        return answer

    monkeypatch.setattr(WorkerPool, "do", killed)
    return died
