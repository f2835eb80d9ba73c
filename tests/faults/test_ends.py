"""Every way in which a worker can end is told from all others, and is followed by what helps.

The workers are real, with the real engine, and end for real reasons: signals, limits, full disks, damaged files, other
programs. What the engine says in failures that cannot be had here stands in `MESSAGES`, word for word.
"""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ladybug
import pytest
from click.testing import CliRunner
from support import bad_worker
from support.memories import Hurried, change, make_memory, migrate, node, turn, vector
from support.torture import Life, assert_all_there, beside, interrupted, small_memory, staging_of, target_of
from test_memory import HURRY, NO_ROOM_TO_WAIT, memory_group, rows_loaded
from test_stacks import FRAME, HAS_NATIVE

import nimad
from nimad.cli.main import cli
from nimad.errors import EngineError, ExitCode
from nimad.events.run import BatchFailed, BatchLoaded, BatchRecovered, Event
from nimad.migration import bisect
from nimad.source.ranges import LAST_KEY, Range
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import Survey, survey
from nimad.supervisor import outcome, timeout, worker_process
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.supervisor.worker_process import Clock, Launch, WorkerProcess
from nimad.worker.protocol import Job, Task

MIB = 1024**2
LAST = 40
#: Seconds that a worker may take which is meant to end by itself.
LONG_S = 60.0
#: Byte of an engine's file that holds the version of its format (ladybug 0.22).
VERSION_BYTE = 4

MOUNT_MISSING = "only root may mount a small file system" if os.geteuid() else ""


# Workers


@dataclass
class Bench:
    """A memory, a target that holds its nodes, and real workers that do one job each."""

    source: Path
    target: Path
    survey: Survey

    @property
    def folder(self) -> Path:
        return self.source.parent

    def job(self, task: Task, **facts: Any) -> Job:
        names = {name: str(beside(self.target, suffix)) for name, suffix in EXTRA_FILES.items()}
        common = {
            "source": str(self.source),
            "target": str(self.target),
            "schema": self.survey.schema,
            "pool_bytes": 128 * MIB,
            "address_space_bytes": 1 << 34,
            "threads": 2,
            "chunk_rows": 1_000,
            "chunk_bytes": 8 * MIB,
        }
        return Job(task=task, **{**common, **names, **facts})

    def load(self, **facts: Any) -> Job:
        """The job to load all nodes, those that are there already among them."""
        extent = self.survey.nodes
        return self.job(Task.LOAD, range=Range("memory_nodes", None, LAST_KEY, extent.rows, extent.bytes), **facts)

    def another(self, name: str, **values: Any) -> "Bench":
        """A bench with another memory, of one node, whose target does not exist yet."""
        source = make_memory(self.folder / f"{name}.sqlite", nodes=[node(1, **values)])
        return Bench(source, self.folder / f"{name}.ladybug", survey(SourceFile(source)))


EXTRA_FILES = {"ledger": ".ledger", "quarantine": ".quarantining"}


def ask(job: Job, *, before: Callable[[int], object] | None = None, limit_s: float = LONG_S) -> WorkerResult:
    """Have a real worker do a job; `before` is called with its PID first."""
    worker = WorkerProcess(Launch())
    try:
        if before:
            before(worker.pid)
        return worker.work(job, threading.Event(), limit_s)
    finally:
        worker.dismiss()


def send(number: int) -> Callable[[int], object]:
    return lambda pid: os.kill(pid, number)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Nodes 1 to 40 in a target, made once by a real worker."""
    source = make_memory(
        tmp_path_factory.mktemp("loaded") / "graph.sqlite",
        nodes=[node(key, text=f"memory {key}, told", embedding=vector(0.5, key)) for key in range(1, LAST + 1)],
        turns=[turn(1, 1, 2, 3)],
    )
    bench = Bench(source, source.with_name("graph.ladybug"), survey(SourceFile(source)))
    answer = ask(bench.load())
    assert answer.ok, answer
    return bench


@pytest.fixture
def bench(loaded: Bench, tmp_path: Path) -> Bench:
    """A copy of it, to be ruined."""
    for path in (loaded.source, loaded.target):
        shutil.copy(path, tmp_path)
    source = tmp_path / loaded.source.name
    return Bench(source, tmp_path / loaded.target.name, survey(SourceFile(source)))


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips the test where none can be mounted."""
    if MOUNT_MISSING:
        pytest.skip(MOUNT_MISSING)
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def elsewhere(script: str, *arguments: str) -> Iterator[int]:
    """Another real process, which runs `script`, says that it is ready, and goes on until the end; gives its PID."""
    command = [sys.executable, "-c", f"{script}\nprint('ready', flush=True)\nimport sys; sys.stdin.read()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


HOLD_TARGET = """
import ladybug, sys
held = ladybug.Database(sys.argv[1], buffer_pool_size=64 << 20, max_db_size=1 << 34)
"""
HOLD_SOURCE = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
"""


# Each kind, by a real worker

Provoke = Callable[[Bench, pytest.MonkeyPatch], WorkerResult]
PROVOKED: dict[FailureKind, Provoke] = {}


def ends_as(kind: FailureKind) -> Callable[[Provoke], Provoke]:
    def note(provoke: Provoke) -> Provoke:
        PROVOKED[kind] = provoke
        return provoke

    return note


def worker_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """From now on a worker's interpreter gets these arguments."""
    monkeypatch.setattr(worker_process, "WORKER", ("-P", *words))


def poisoned(bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str) -> WorkerResult:
    """What a real worker ends with that loads a row which does something to it."""
    worker_of(monkeypatch, bad_worker.__file__)
    return ask(bench.another("poisoned", text=f"poison:{way}").load())


@ends_as(FailureKind.CRASHED)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    return poisoned(bench, monkeypatch, "segv")


@ends_as(FailureKind.KILLED)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    return ask(bench.load(), before=send(signal.SIGKILL))


@ends_as(FailureKind.OUT_OF_MEMORY)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    """The worker alone is in a group that has room for its start, and none for a row of 60 MB."""
    with memory_group(96 * MIB) as group:
        monkeypatch.setattr(worker_process, "PYTHON", group.wrapper(bench.folder / "python"))
        return ask(bench.another("large", text="x" * 60_000_000).load())


@ends_as(FailureKind.HUNG)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """Halted before it took its job, which is more than a pipe holds."""
    return ask(bench.load(ids=tuple(range(100_000))), before=send(signal.SIGSTOP), limit_s=1.0)


@ends_as(FailureKind.NO_ANSWER)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    return poisoned(bench, monkeypatch, "exit")


@ends_as(FailureKind.HALF_ANSWER)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    return poisoned(bench, monkeypatch, "half")


@ends_as(FailureKind.POOL_FULL)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    return ask(bench.another("large", text="x" * 6_000_000).load(pool_bytes=5 * MIB))


@ends_as(FailureKind.CHECKPOINT_FAILED)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """A file that would grow beyond the address space that was asked for."""
    noise = random.Random(1)
    nodes = [node(key, text=noise.randbytes(20_000).hex()) for key in range(1, 401)]
    source = make_memory(bench.folder / "large.sqlite", nodes=nodes)
    large = Bench(source, bench.folder / "large.ladybug", survey(SourceFile(source)))
    return ask(large.load(pool_bytes=256 * MIB, address_space_bytes=8 * MIB))


@ends_as(FailureKind.ALLOCATION)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    """Python itself cannot read the rows: a worker whose address space is all but used up when it begins."""
    worker_of(monkeypatch, "-c", SHORT_OF_ADDRESSES)
    return ask(bench.another("large", text="x" * 60_000_000).load())


SHORT_OF_ADDRESSES = """
import re, resource, sys
from pathlib import Path
from nimad.target.engine import import_engine
import_engine()
from nimad.worker import __main__ as worker, tasks
import pyarrow
size = int(re.search(r"VmSize:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (48 << 20),) * 2)
sys.exit(worker.main())
"""


@ends_as(FailureKind.ADDRESS_SPACE)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    def limit(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_AS, (8 << 30, 8 << 30))

    return ask(bench.load(), before=limit)


@ends_as(FailureKind.WAL_REPLAY)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    tear_log(bench.target)
    return ask(bench.load())


def tear_log(target: Path) -> None:
    """Damage a byte of a log that an engine left."""
    leave_log(target)
    log = beside(target, ".wal")
    flip(log, log.stat().st_size // 2)


def leave_log(target: Path) -> None:
    """Have an engine that is killed leave a log."""
    script = (
        "import ladybug, os, signal, sys\n"
        "database = ladybug.Database(sys.argv[1], buffer_pool_size=64 << 20, max_db_size=1 << 34,\n"
        "                            auto_checkpoint=False)\n"
        "connection = ladybug.Connection(database)\n"
        "for key in range(100, 160): connection.execute(f'CREATE (:MemoryNode {{id: {key}}})').close()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, target], check=False)
    assert killed.returncode == -signal.SIGKILL


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@ends_as(FailureKind.RECOVERY_PENDING)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """As an engine leaves it that is killed in the middle of a checkpoint."""
    leave_log(bench.target)
    beside(bench.target, ".wal").rename(beside(bench.target, ".wal.checkpoint"))
    for name in ("intent", "apply"):
        beside(bench.target, f".checkpoint.{name}.lock").touch()
    return ask(bench.job(Task.VERIFY, bounds={"memory_nodes": LAST}, quarantine=""))


@ends_as(FailureKind.UNREADABLE)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    bench.target.write_bytes(b"this was a database once " * 4_000)
    return ask(bench.load())


@ends_as(FailureKind.DAMAGED)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """A page of texts is damaged: the file opens, and what it holds is no text any more."""
    data = bench.target.read_bytes()
    assert b", told" in data
    bench.target.write_bytes(data.replace(b", told", b"\xff\xfetold"))
    return ask(bench.job(Task.VERIFY, bounds={"memory_nodes": LAST}, quarantine=""))


@ends_as(FailureKind.LOCKED)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    with elsewhere(HOLD_TARGET, str(bench.target)) as pid:
        answer = ask(bench.load())
    assert f"held by PID {pid}" in answer.message
    return answer


@ends_as(FailureKind.STORAGE_VERSION)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    write_newer_version(bench.target)
    return ask(bench.load())


def write_newer_version(target: Path) -> None:
    """The header of a file that the next engine would write."""
    data = bytearray(target.read_bytes())
    assert data[VERSION_BYTE] == ladybug.Database.get_storage_version()
    data[VERSION_BYTE] += 1
    target.write_bytes(data)


@ends_as(FailureKind.DISK)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    with mounted(bench.folder / "full", "size=2m") as folder:
        large = bench.another("large", text="".join(map(str, range(800_000))))
        answer = ask(replace(large.load(), target=str(folder / "graph.ladybug")))
    assert "No space left on device" in answer.message
    return answer


@ends_as(FailureKind.NOT_ALLOWED)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    with mounted(bench.folder / "still", "size=2m,ro") as folder:
        return ask(bench.load(target=str(folder / "graph.ladybug")))


@ends_as(FailureKind.DUPLICATE_KEY)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """The one task that does not look first: a trial, whose target was not thrown away."""
    return ask(bench.job(Task.TRIAL_LOAD, table="memory_nodes", ids=[1, 2]))


@ends_as(FailureKind.CONVERSION)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """Embeddings of three floats, for a column of two."""
    change(bench.source, "UPDATE memory_nodes SET embedding = ?", vector(1.0, 2.0, 3.0))
    change(bench.source, "UPDATE memory_nodes SET id = id + 100")
    bench.survey = survey(SourceFile(bench.source))
    return ask(bench.load())


@ends_as(FailureKind.ENGINE_ERROR)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    return poisoned(bench, monkeypatch, "error")


@ends_as(FailureKind.ENGINE_MISSING)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    """Another package has the engine's name."""
    namesake = bench.folder / "site" / "ladybug"
    namesake.mkdir(parents=True)
    (namesake / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(namesake.parent))
    return ask(bench.load())


@ends_as(FailureKind.SOURCE_BUSY)
def _(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> WorkerResult:
    """The worker would wait for half a minute."""
    change(bench.source, "PRAGMA journal_mode = DELETE")
    worker_of(
        monkeypatch,
        "-c",
        "import sys\nfrom nimad.source import sqlite_file\nsqlite_file.BUSY_TIMEOUT_S = 0.3\n"
        "from nimad.worker.__main__ import main\nsys.exit(main())",
    )
    with elsewhere(HOLD_SOURCE, str(bench.source)):
        return ask(bench.load())


@ends_as(FailureKind.SOURCE)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    change(bench.source, "DROP TABLE memory_nodes")
    return ask(bench.load())


@ends_as(FailureKind.SCHEMA)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    change(bench.source, "ALTER TABLE memory_nodes ADD COLUMN mood TEXT")
    bench.survey = survey(SourceFile(bench.source))
    return ask(bench.job(Task.COUNT))


@ends_as(FailureKind.STRICT)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    change(bench.source, "UPDATE memory_nodes SET text = CAST(x'ff' AS TEXT) WHERE id = 7")
    return ask(bench.load(strict=True))


@ends_as(FailureKind.UNEXPECTED)
def _(bench: Bench, _: pytest.MonkeyPatch) -> WorkerResult:
    """A job that cannot be: a bug of ours."""
    return ask(bench.job(Task.LOAD))


@pytest.mark.parametrize("kind", list(PROVOKED), ids=lambda kind: kind.name.lower())
def test_a_real_worker_ends_so_and_is_told_from_all_others(
    kind: FailureKind, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = PROVOKED[kind](bench, monkeypatch)
    assert answer.kind is kind, (answer.kind, answer.message, answer.stack)
    assert answer.message
    assert not answer.ok
    assert answer.rule is outcome.RULES[kind]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT])
def test_each_signal_of_a_crash_is_one(bench: Bench, number: signal.Signals) -> None:
    answer = ask(bench.load(), before=send(number))
    assert (answer.kind, answer.message) == (FailureKind.CRASHED, f"the worker was ended by {number.name}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_any_other_signal_is_somebodys_doing(bench: Bench, number: signal.Signals) -> None:
    answer = ask(bench.load(), before=send(number))
    assert (answer.kind, answer.message) == (FailureKind.KILLED, f"the worker was ended by {number.name}")


def test_a_job_that_is_done_has_no_kind_and_no_rule(bench: Bench) -> None:
    answer = ask(bench.load())
    assert answer.ok
    assert [part["held"] for part in answer.facts["parts"]] == [{"MemoryNode": LAST}]
    with pytest.raises(ValueError, match="needs no rule"):
        _ = answer.rule


# The table, word for word


# The table is whole


# What follows, in whole runs


class Breathless(Clock):
    """A clock that waits for nothing."""

    def wait(self, stop: threading.Event, seconds: float) -> bool:  # noqa: ARG002 - it does not wait
        return stop.is_set()


def poisoned_memory(folder: Path, way: str) -> Path:
    nodes = [node(key, text=f"poison:{way}" if key == 20 else f"memory {key}") for key in range(1, LAST + 1)]
    return make_memory(folder / "graph.sqlite", nodes=nodes)


def cured_after_failure(source: Path) -> tuple[list[Event], Callable[[Event], None]]:
    """A listener that takes the poison out of the row once a batch has failed, as if it had been chance."""
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, BatchFailed):
            change(source, "UPDATE memory_nodes SET text = 'cured' WHERE id = 20")

    return heard, listen


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("way", "rows"),
    [("segv", [40]), ("memory", [20, 20]), ("hang", [20, 20])],
)
def test_the_next_try_has_as_many_rows_as_the_end_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, rows: list[int]
) -> None:
    """All of them after a crash, half of them after a want of memory or of time."""
    worker_of(monkeypatch, bad_worker.__file__)
    if way == "hang":
        monkeypatch.setattr(timeout, "FLOOR_S", 4.0)
    source = poisoned_memory(tmp_path, way)
    heard, listen = cured_after_failure(source)
    result = nimad.migrate(nimad.Settings(source=source, max_batch_size=500), listen, clock=Hurried())
    assert rows_loaded(heard) == rows
    assert [event.attempt for event in heard if isinstance(event, BatchRecovered)] == [2]
    assert (result.exit_code, result.migrated) == (ExitCode.COMPLETE, LAST)


HANG_AFTER_WRITING = """
import sys, time
from pathlib import Path
from nimad.worker import __main__ as worker, tasks
from nimad.worker.protocol import Task
perform = tasks.perform
def hang_once(job, engine):
    facts = perform(job, engine)
    if job.task is Task.LOAD and not (flag := Path(job.target).with_name("hung")).exists():
        flag.touch()
        time.sleep(600)
    return facts
tasks.perform = hang_once
sys.exit(worker.main())
"""


@pytest.mark.long
def test_rows_that_a_worker_wrote_before_it_hung_are_not_taken_for_lost_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try has half the rows, and finds all of them in the target: more than it knows of in the source."""
    worker_of(monkeypatch, "-c", HANG_AFTER_WRITING)
    monkeypatch.setattr(timeout, "FLOOR_S", 6.0)
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, LAST + 1)])
    run = migrate(source, clock=Hurried())
    assert "did not end within" in run.only(BatchFailed).message
    assert_all_there(source, run.target)


def test_what_no_repetition_mends_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine goes missing between the probe and the first batch."""
    source = poisoned_memory(tmp_path, "segv")
    namesake = tmp_path / "site" / "ladybug"
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if type(event).__name__ == "Started":
            namesake.mkdir(parents=True)
            (namesake / "__init__.py").write_text("")
            monkeypatch.setenv("PYTHONPATH", str(namesake.parent))

    clock = Hurried()
    with pytest.raises(EngineError):
        nimad.migrate(nimad.Settings(source=source), listen, clock=clock)
    assert clock.waited == []
    assert len([event for event in heard if isinstance(event, BatchFailed)]) <= 1


def test_a_target_of_another_engine_is_left_as_it_is(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=300, dimension=8)
    interrupted(source, BatchLoaded, batch_size=100)
    staging = staging_of(source)
    write_newer_version(staging)
    before = staging.read_bytes()
    with pytest.raises(EngineError, match=r"belongs to another release of LadybugDB .*--restart"):
        migrate(source)
    assert staging.read_bytes() == before
    migrate(source, restart=True)
    assert_all_there(source, target_of(source))


# What a crash leaves in the log


def test_a_worker_that_crashes_leaves_its_stacks_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker_of(monkeypatch, bad_worker.__file__)
    monkeypatch.setattr(Clock, "wait", Breathless.wait)
    monkeypatch.setattr(bisect, "CONFIRM_CRASH_S", (0.0,))
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, text="poison:segv")])
    done = CliRunner().invoke(cli, ["migrate", "--source", str(source)])
    assert done.exit_code == ExitCode.QUARANTINED, done.output

    log = (tmp_path / "migration.log").read_text()
    assert "Batch failed (attempt 1/4): the worker was ended by SIGSEGV" in log
    told = log[log.index("What the worker said last:") :]
    assert "Fatal Python error: Segmentation fault" in told
    assert re.search(r'File ".*bad_worker\.py", line \d+ in crash', told), "the Python stack names the line"
    assert bool(FRAME.search(told)) == HAS_NATIVE, "the native stack is there where the C library can write one"
    assert "Fatal Python error" not in done.output, "a stack is for the log, not for the console"


# The kernel's kill for want of memory, and anybody's


def test_the_kernels_kill_for_want_of_memory_is_told_from_anybodys(tmp_path: Path) -> None:
    """The same signal twice, in a real memory cgroup: once because a row does not fit, once from here."""
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, text="x" * 4_000_000) for key in range(1, 13)])
    with memory_group(250 * MIB) as group:
        script = group.joining(f"{HURRY}\n{NO_ROOM_TO_WAIT}\nsys.exit(main())")
        options = ("migrate", "--source", str(source), "--max-memory", "2G")
        with Life(source, *options, script=script) as life:
            status = life.wait()
        assert group.oom_kills() > 0
        assert status >= 0, life.said
        assert "the worker was ended by the kernel: out of memory (SIGKILL)" in life.said

    other = small_memory(tmp_path / "other.sqlite", nodes=600, dimension=8)
    with memory_group(1024 * MIB) as group:
        script = group.joining(f"{HURRY}\nsys.exit(main())")
        options = ("migrate", "--source", str(other), "--target", str(tmp_path / "other.ladybug"))
        with Life(other, *options, "--fixed-batch", "150", script=script) as life:
            life.wait_for("Batch 1/")
            assert life.kill_worker(0)
            status = life.wait()
        assert group.oom_kills() == 0
        assert status == ExitCode.COMPLETE, life.said
        assert "the worker was ended by SIGKILL." in life.said
        assert "out of memory" not in life.said
