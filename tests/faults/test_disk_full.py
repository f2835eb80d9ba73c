"""A disk that is too small, fills up, or may not be written to stops a run: nothing is lost, or published half.

The disks are real: each is a tmpfs of its own size, which other files fill while a run goes on.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.commands import nimad
from support.memories import Hurried, Run, assert_same, make_memory, migrate, node
from support.torture import Life, assert_nothing_left, interrupted, run_to_the_end, small_memory, state_of

import nimad as package
from nimad.errors import CannotWriteError, DiskError, ExitCode
from nimad.events.run import (
    BatchLoaded,
    Compacted,
    DryRun,
    Event,
    NotCompacted,
    NothingToDo,
    Published,
    Started,
    TableLoaded,
    Verifying,
)
from nimad.migration import compact
from nimad.supervisor import worker_process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk of its own")

KB, MB = 1_000, 1_000_000
#: Bytes of a disk on which the memory of these tests has room.
ROOMY = 64 * MB
NODES, BATCH = 120, 60
#: Bytes by which a neighbour's file grows at once, and the seconds between.
STEP, PACE_S = 2 * MB, 0.02


@dataclass(frozen=True)
class Disk:
    """A tmpfs, and a file on it that takes up room."""

    path: Path

    @property
    def target(self) -> Path:
        return self.path / "graph.ladybug"

    @property
    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    @property
    def _other_file(self) -> Path:
        return self.path / "other.bin"

    def fill(self, *, leave: int = 0) -> None:
        """Let the other file grow until only so many bytes are free."""
        with self._other_file.open("ab") as file:
            while self.free > leave:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), self.free - leave)

    def make_room(self) -> None:
        self._other_file.unlink()

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}


Mount = Callable[..., Disk]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk of so many bytes, which is gone after the test whatever happened in it."""
    mounted: list[Path] = []

    def make(size: int, name: str = "disk") -> Disk:
        path = tmp_path / name
        path.mkdir()
        done = system("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path))
        if done:
            pytest.skip(f"no tmpfs can be mounted here: {done}")
        mounted.append(path)
        return Disk(path)

    yield make
    for path in reversed(mounted):
        while path.is_mount():
            assert not system("umount", "--lazy", str(path))


def system(*words: str) -> str:
    """Run a command; what it said when it failed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"exit {done.returncode}" if done.returncode else ""


@pytest.fixture
def disk(mount: Mount) -> Disk:
    return mount(ROOMY)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memory of most tests, on a disk that has room; nothing is written beside it but a log."""
    return small_memory(tmp_path_factory.mktemp("memory") / "graph.sqlite", nodes=NODES, dimension=8)


def migrate_to(disk: Disk, source: Path) -> Run:
    """Run undisturbed; it has to complete."""
    run = migrate(source, target=disk.target, batch_size=BATCH, fixed_batch=True)
    assert_same(source, run.target)
    assert_nothing_left(run.target)
    return run


def disturbed(source: Path, disk: Disk, at: type[Event], nth: int, do: Callable[[], None]) -> Run:
    """Run, and do something to the disk at the n-th event of a kind."""
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, at) and sum(isinstance(each, at) for each in heard) == nth:
            do()

    settings = package.Settings(source=source, target=disk.target, batch_size=BATCH, fixed_batch=True)
    return Run(package.migrate(settings, listen, clock=Hurried()), heard)


def assert_disk_is_to_blame(error: DiskError, disk: Disk) -> None:
    assert error.exit_code == ExitCode.IO_ERROR
    assert str(disk.path) in str(error)
    assert "make room or repair the disk, then run again: what was counted is kept" in str(error)
    assert not os.path.lexists(disk.target)


# A disk that is too small


def test_a_memory_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, mount: Mount) -> None:
    disk = mount(20 * MB)
    text = "x" * 64 * KB
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, text=text) for key in range(400)])
    before = {path.name for path in tmp_path.iterdir()}
    done = nimad(tmp_path, "migrate", "--source", source, "--target", disk.target)
    assert done.code == ExitCode.CANNOT_WRITE
    said = re.search(rf"{disk.path} has (\d+) MB free, the migration needs (\d+) MB; make room, or", done.error)
    assert said, done.error
    assert int(said[1]) <= 20
    assert int(said[2]) > 25
    assert "--target" in done.error
    assert disk.names() == set()
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_file_of_nothing_but_holes_is_no_room_for_what_is_to_come(source: Path, mount: Mount) -> None:
    disk = mount(20 * MB)
    with disk.target.with_name("graph.ladybug.migrating").open("wb") as file:
        file.truncate(1_000 * MB)
    dry = migrate(source, target=disk.target, dry_run=True)
    (obstacle,) = dry.only(DryRun).facts["obstacles"]
    assert "MB free" in obstacle
    with pytest.raises(CannotWriteError) as caught:
        migrate(source, target=disk.target)
    assert_says_as_much(str(caught.value), obstacle)


@pytest.mark.long
def test_an_option_that_makes_much_more_room_necessary_is_named(tmp_path: Path, mount: Mount) -> None:
    disk = mount(64 * MB)
    source = small_memory(tmp_path / "graph.sqlite", nodes=1_000, dimension=384)
    for option, value in (("--fixed-batch", 10), ("--max-batch-size", 20)):
        words = ("--batch-size", 20, option, value) if option == "--max-batch-size" else (option, value)
        done = nimad(tmp_path, "migrate", "--source", source, "--target", disk.target, *words)
        assert done.code == ExitCode.CANNOT_WRITE
        said = re.search(rf"needs (\d+) MB because of {option} {value}, without which (\d+) MB would do;", done.error)
        assert said, done.error
        assert int(said[2]) < 64 < int(said[1])
    assert nimad(tmp_path, "migrate", "--source", source, "--target", disk.target).code == ExitCode.COMPLETE


def test_a_disk_that_is_full_before_a_run_begins_is_one_that_cannot_be_written_to(source: Path, disk: Disk) -> None:
    disk.fill()
    done = nimad(disk.path.parent, "migrate", "--source", source, "--target", disk.target)
    assert done.code == ExitCode.CANNOT_WRITE, done.err
    assert f"{disk.path} has no room for a file (No space left on device); make room, or" in done.error
    assert disk.names() == {"other.bin"}
    (obstacle,) = migrate(source, target=disk.target, dry_run=True).only(DryRun).facts["obstacles"]
    assert f"{disk.path} has 0 MB free" in obstacle


@pytest.mark.long
def test_what_a_worker_finds_no_room_for_is_named(source: Path, disk: Disk) -> None:
    """A failed write to an open file says what, and not where."""
    with (
        full_at(disk, "ledger", "append", leave=0),
        pytest.raises(DiskError, match=f"^{disk.path}: No space left on device; make room") as caught,
    ):
        migrate(source, target=disk.target, batch_size=BATCH, fixed_batch=True, clock=Hurried())
    assert_disk_is_to_blame(caught.value, disk)
    disk.make_room()
    migrate_to(disk, source)


# A disk on which an uninterrupted run just fits


@pytest.fixture(scope="module")
def modest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of some 30 MB of rows: a target of it is larger than what is free beside it on a disk of 90 MB."""
    path = tmp_path_factory.mktemp("modest") / "graph.sqlite"
    return small_memory(path, nodes=5_000, dimension=384)


def needed_by_a_dry_run(source: Path, disk: Disk, **settings: Any) -> tuple[int, list[str]]:
    facts = migrate(source, target=disk.target, dry_run=True, **settings).only(DryRun).facts
    return facts["plan"]["disk_needed"], facts["obstacles"]


def assert_says_as_much(said: str, foretold: str) -> None:
    """The same words, with the same numbers but for a page: a real run has a lock file where a dry one has none."""
    assert re.sub(r"\d+ MB", "N MB", said) == re.sub(r"\d+ MB", "N MB", foretold)
    pairs = zip(re.findall(r"(\d+) MB", said), re.findall(r"(\d+) MB", foretold), strict=True)
    assert all(abs(int(one) - int(other)) <= 1 for one, other in pairs)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_an_interrupted_run_goes_on_within_the_room_that_an_undisturbed_one_has(
    modest: Path, mount: Mount, number: signal.Signals
) -> None:
    disk = mount(90 * MB)
    words = ("--target", str(disk.target), "--batch-size", "150")  # then 3,000, then what is left
    for batch in (2, 1):  # the second life begins where the first ended
        with Life(modest, *words) as life:
            life.wait_for(f"Batch {batch}/")
            life.send(number)
            assert life.wait() in (ExitCode.INTERRUPTED, -signal.SIGKILL)
        needed, obstacles = needed_by_a_dry_run(modest, disk, batch_size=150)
        assert needed <= disk.free, "what a dry run foretells is what a real run then finds"
        assert obstacles == []
    assert "Going on with" in run_to_the_end(modest, *words)
    assert_same(modest, disk.target)
    assert_nothing_left(disk.target)


@pytest.mark.long
def test_rows_that_are_there_already_take_no_room_again(modest: Path, mount: Mount) -> None:
    disk = mount(90 * MB)
    interrupted(modest, TableLoaded, target=disk.target)
    disk.fill(leave=16 * MB)
    needed, obstacles = needed_by_a_dry_run(modest, disk)
    assert (needed < 16 * MB, obstacles) == (True, [])
    run = migrate(modest, target=disk.target)
    assert run.only(Started).found["MemoryNode"] == 5_000
    assert_same(modest, disk.target)


@pytest.fixture(scope="module")
def full_of_holes(modest: Path) -> Path:
    """The unfinished target of a run that loaded half of it in small batches."""
    target = modest.with_name("graph.ladybug")
    interrupted(modest, BatchLoaded, nth=10, target=target, batch_size=250, fixed_batch=True)
    return target


def put_on(mount: Mount, unfinished: Path, *, free: int) -> Disk:
    """A copy of an unfinished run on a disk that has so many bytes left then."""
    files = [unfinished.with_name(unfinished.name + end) for end in (".migrating", ".migrating.ledger", ".state.json")]
    disk = mount(sum(file.stat().st_blocks * 512 for file in files) + free)
    for file in files:
        shutil.copy(file, disk.path)
    return disk


def used_by(unfinished: Path) -> int:
    staging = unfinished.with_name(unfinished.name + ".migrating")
    return int(staging.stat().st_size - state_of(unfinished)["free_bytes"])


@pytest.mark.long
def test_a_file_full_of_holes_is_copied_without_them_where_that_makes_the_room(
    modest: Path, full_of_holes: Path, mount: Mount
) -> None:
    disk = put_on(mount, full_of_holes, free=int(used_by(full_of_holes) * 2.5))
    needed, obstacles = needed_by_a_dry_run(modest, disk)
    assert (needed > disk.free, obstacles) == (True, [])
    run = migrate(modest, target=disk.target)
    kinds = [type(event) for event in run.events]
    assert kinds.index(Started) < kinds.index(Compacted) < kinds.index(BatchLoaded)
    assert run.only(Started).found["MemoryNode"] >= 2_250
    assert_same(modest, disk.target)
    assert_nothing_left(disk.target)


@pytest.mark.long
def test_where_beginning_anew_needs_less_than_going_on_the_run_says_so(
    modest: Path, full_of_holes: Path, mount: Mount
) -> None:
    disk = put_on(mount, full_of_holes, free=int(used_by(full_of_holes) * 2))
    _, (obstacle,) = needed_by_a_dry_run(modest, disk)
    with pytest.raises(CannotWriteError) as caught:
        migrate(modest, target=disk.target)
    assert_says_as_much(str(caught.value), obstacle)
    said = re.search(
        r"(\d+) MB free, going on needs up to (\d+) MB \(starting over with --restart needs (\d+) MB, and once the "
        r"unfinished target is thrown away, (\d+) MB are free\); make room",
        obstacle,
    )
    assert said, obstacle
    free, needed, anew, then = map(int, said.groups())
    assert free < needed
    assert anew < then
    assert migrate(modest, target=disk.target, restart=True).result.exit_code == ExitCode.COMPLETE
    assert_same(modest, disk.target)


# A disk that fills up


def test_a_disk_that_other_files_fill_stops_the_run_and_what_was_counted_is_kept(source: Path, disk: Disk) -> None:
    with pytest.raises(DiskError, match=f"{disk.path} has 1.0 MB free, and the next batch needs up to .* MB") as caught:
        disturbed(source, disk, BatchLoaded, 1, lambda: disk.fill(leave=MB))
    assert_disk_is_to_blame(caught.value, disk)
    assert state_of(disk.target)["phase"] == "failed"
    assert state_of(disk.target)["message"] == str(caught.value)
    disk.make_room()
    assert migrate_to(disk, source).only(Started).found["MemoryNode"] == BATCH


@pytest.mark.long
def test_a_neighbour_that_takes_the_last_room_at_any_moment_stops_the_run(source: Path, disk: Disk) -> None:
    """Whether it is the plan, the engine or the state file that finds no room is chance, and makes no difference."""
    options = ("--target", str(disk.target), "--fixed-batch", "20")
    end = threading.Event()

    def grow() -> None:
        while disk.free and not end.wait(PACE_S):
            disk.fill(leave=max(0, disk.free - STEP))

    neighbour = threading.Thread(target=grow)
    with Life(source, *options) as life:
        life.wait_for("Batch 1/")
        neighbour.start()
        status = life.wait()
    end.set()
    neighbour.join()
    assert status == ExitCode.IO_ERROR, life.said
    (line,) = [line for line in life.said.splitlines() if "[ERROR]" in line and "make room or repair the disk" in line]
    assert str(disk.path) in line
    assert not os.path.lexists(disk.target)
    disk.make_room()
    assert "Going on with" in run_to_the_end(source, *options)
    assert_same(source, disk.target)
    assert_nothing_left(disk.target)


#: A worker that lets other files take all but some bytes of the disk when it comes to a certain step. In all else it
#: is the real one.
FULL_AT = """
import os, sys
from nimad.target import compact_file
from nimad.target.database import Database
from nimad.state import ledger
from nimad.worker import __main__ as worker
owner, name, leave, folder = {owner}, {name!r}, {leave}, {folder!r}
def free():
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
step = getattr(owner, name)
def full(*words, **named):
    with open(folder + "/other.bin", "ab") as file:
        while free() > leave:
            os.posix_fallocate(file.fileno(), file.seek(0, 2), free() - leave)
    return step(*words, **named)
setattr(owner, name, full)
sys.exit(worker.main())
"""


@contextmanager
def full_at(disk: Disk, owner: str, name: str, *, leave: int) -> Iterator[None]:
    script = FULL_AT.format(owner=owner, name=name, leave=leave, folder=str(disk.path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_process, "WORKER", ("-P", "-c", script))
        yield


@pytest.mark.long
def test_wherever_the_engine_finds_the_disk_full_nothing_is_lost(source: Path, disk: Disk) -> None:
    """In the file itself, or in the pages that a checkpoint puts aside; in the first batch or in a later one."""
    for owner, name, leave in (
        ("Database", "copy", 0),
        ("Database", "copy", 600 * KB),
        ("Database", "checkpoint", 0),
        ("Database", "checkpoint", 4_096),
    ):
        with (
            full_at(disk, owner, name, leave=leave),
            pytest.raises(DiskError, match="No space left on device") as caught,
        ):
            migrate(source, target=disk.target, batch_size=BATCH, fixed_batch=True, clock=Hurried())
        assert_disk_is_to_blame(caught.value, disk)
        assert f"{disk.target}.migrating" in str(caught.value)
        disk.make_room()
    migrate_to(disk, source)


# A disk that fills up before the end


@pytest.fixture
def holed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory whose target has holes worth a compaction, which begins at 1 MB here instead of 16."""
    monkeypatch.setattr(compact, "SMALL_FILE", MB)
    choice = random.Random(1)
    nodes = [node(key, text=choice.randbytes(8 * KB).hex()) for key in range(NODES)]
    return make_memory(tmp_path / "graph.sqlite", nodes=nodes)


@pytest.mark.long
def test_with_too_little_room_for_a_copy_the_file_keeps_its_holes(holed: Path, disk: Disk) -> None:
    run = disturbed(holed, disk, TableLoaded, 1, lambda: disk.fill(leave=MB))
    assert re.fullmatch(r"[\d,]+ bytes of disk needed, [\d,]+ free", run.only(NotCompacted).why)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(holed, disk.target)
    assert_nothing_left(disk.target)


@pytest.mark.sampled
@pytest.mark.parametrize("leave", [100 * KB, 3 * MB], ids=["exporting", "importing"])
def test_a_disk_that_is_full_while_the_file_is_copied_costs_the_copy_alone(holed: Path, disk: Disk, leave: int) -> None:
    with full_at(disk, "compact_file.os", "chdir", leave=leave):
        run = migrate(holed, target=disk.target, batch_size=BATCH, fixed_batch=True)
    assert run.all(Compacted) == []
    # Of a short write the engine gives whatever error number came before it.
    assert "Cannot write to file" in run.only(NotCompacted).why
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(holed, disk.target)
    assert_nothing_left(disk.target)


@pytest.mark.long
def test_a_state_file_that_finds_no_room_stops_the_run_and_stays_whole(source: Path, disk: Disk) -> None:
    with pytest.raises(DiskError, match="No space left on device") as caught:
        disturbed(source, disk, Verifying, 1, disk.fill)
    assert_disk_is_to_blame(caught.value, disk)
    assert state_of(disk.target)["phase"] == "verifying"
    assert disk.names() == {
        *("other.bin", "graph.ladybug.runs.jsonl", "graph.ladybug.state.json"),
        *("graph.ladybug.migrating", "graph.ladybug.migrating.ledger"),
    }
    disk.make_room()
    run = migrate_to(disk, source)
    assert run.only(Started).found["MemoryNode"] == NODES
    assert [event for event in run.all(BatchLoaded) if event.table == "memory_nodes"] == []


@pytest.mark.long
def test_a_disk_that_is_full_once_the_target_is_there_takes_nothing_back(source: Path, disk: Disk) -> None:
    run = disturbed(source, disk, Published, 1, disk.fill)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(source, disk.target)
    disk.make_room()
    (why,) = [event.why for event in migrate(source, target=disk.target).events if isinstance(event, NothingToDo)]
    assert f"{disk.target} is complete: {NODES} memories" in why


@pytest.mark.long
def test_a_log_that_finds_no_room_says_so_and_does_not_stop_the_run(source: Path, tmp_path: Path, mount: Mount) -> None:
    logs = mount(4_096, "logs")
    log = logs.path / "migration.log"
    log.write_text("an earlier run's line\n" * 180)
    (tmp_path / "nimad.toml").write_text(f'[log]\nfile = "{log}"\n')
    target = tmp_path / "graph.ladybug"
    done = nimad(tmp_path, "migrate", "--source", source, "--target", target, "--config", tmp_path / "nimad.toml")
    assert done.code == ExitCode.COMPLETE, done.err
    assert done.out.count("The log file cannot be written any more (No space left on device)") == 1
    assert "Migration completed successfully!" in done.out
    assert_same(source, target)


# A disk that may not be written to


def read_only(disk: Disk) -> None:
    """Put the same files at the same place, read-only. What is open stays so, as when a file system finds an error."""
    assert not system("mount", "--bind", str(disk.path), str(disk.path))
    assert not system("mount", "-o", "remount,bind,ro", str(disk.path))


def writable(disk: Disk) -> None:
    assert not system("umount", "--lazy", str(disk.path))


def test_a_read_only_folder_is_refused_before_anything_is_read(source: Path, disk: Disk) -> None:
    assert not system("mount", "-o", "remount,ro", str(disk.path))
    done = nimad(disk.path.parent, "migrate", "--source", source, "--target", disk.target)
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"{disk.path} cannot be written to by this user; choose another place with --target" in done.error
    assert disk.names() == set()


@pytest.mark.sampled
@pytest.mark.parametrize(("at", "nth"), [(BatchLoaded, 1), (Verifying, 1)], ids=["loading", "verifying"])
def test_a_folder_that_becomes_read_only_stops_the_run_and_what_was_counted_is_kept(
    source: Path, disk: Disk, at: type[Event], nth: int
) -> None:
    with pytest.raises(CannotWriteError, match="Read-only file system") as caught:
        disturbed(source, disk, at, nth, lambda: read_only(disk))
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert str(disk.path) in str(caught.value)
    assert not os.path.lexists(disk.target)
    writable(disk)
    assert migrate_to(disk, source).only(Started).found["MemoryNode"] >= BATCH
    assert ".lock" not in str(caught.value), "that the lock's name stays is not what stopped it"


@pytest.mark.long
def test_a_memory_in_a_read_only_folder_is_read_as_any_other(source: Path, tmp_path: Path, mount: Mount) -> None:
    """The log, which would stand beside it, is done without."""
    disk = mount(ROOMY)
    memory = Path(shutil.copy(source, disk.path / "graph.sqlite"))
    assert not system("mount", "-o", "remount,ro", str(disk.path))
    target = tmp_path / "graph.ladybug"
    done = nimad(tmp_path, "migrate", "--source", memory, "--target", target)
    assert done.code == ExitCode.COMPLETE, done.err
    assert f"No log file {disk.path}/migration.log (Read-only file system); going on without" in done.out
    assert_same(source, target)
    assert_nothing_left(target)
    assert disk.names() == {"graph.sqlite"}
