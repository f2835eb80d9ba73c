"""How much memory a run takes: what the plan makes of the machine and of the groups around us, and what follows when
that is too little, in the plan or in truth.

The limits are real memory cgroups below our own, so they need root and a kernel that lets us make them; without, those
tests are skipped.
"""

import json
import os
import random
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from support.memories import Hurried, make_memory, migrate, migrate_smoothly, node
from support.torture import Life, assert_all_there, run_to_the_end, small_memory, staging_of, state_of, target_of

import nimad
from nimad.cli.main import main
from nimad.config import Settings
from nimad.errors import ExitCode, RefusedError
from nimad.events.run import BatchFailed, BatchLoaded, Event, Planned, PoolRaised, Started, Verified
from nimad.host import machine
from nimad.migration import prepare
from nimad.source.schema import Schema, Table
from nimad.source.sqlite_file import Identity, SourceFile
from nimad.source.survey import Survey, TableSurvey, survey
from nimad.supervisor.plan import (
    ADDRESS_SPACE_FLOOR,
    LARGE_PAGE_FACTOR,
    MIB,
    NODE_GROUP_ROWS,
    SUPERVISOR,
    WORKER_BASE,
    Plan,
    make_plan,
)

GIB = 1024**3
assert callable(main)  # what HURRY imports in another process

#: Begins a script that runs nimad as the command does, but for the seconds between two tries.
HURRY = """
import sys
from nimad.migration import batch_retry, bisect
batch_retry.BATCH_DELAYS_S = (0.0, 0.1, 0.1, 0.1)
bisect.CONFIRM_S, bisect.CONFIRM_CRASH_S = (0.1,), (0.1,)
from nimad.cli.main import main
"""
#: Rows that wait in memory, as on a full disk: there a smaller batch takes far less.
NO_ROOM_TO_WAIT = "from nimad.migration import batches\nbatches.SPOOL_FACTOR = 1e9"
#: Seconds that the processes of a group may take to be gone.
GONE_S = 10.0


# Real memory cgroups


@dataclass(frozen=True)
class MemoryGroup:
    """A memory cgroup of ours, and how processes come into it."""

    folder: Path
    version: int

    def joining(self, script: str) -> str:
        """A script that joins the group first of all."""
        return f"import os\nopen({str(self._members)!r}, 'w').write(str(os.getpid()))\n{script}"

    def wrapper(self, path: Path) -> str:
        """A program that is Python in this group, under the PID that it was started with."""
        path.write_text(f'#!/bin/sh\necho $$ >"{self._members}" && exec "{sys.executable}" "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def ask(self, script: str) -> Any:
        """What `script`, run in the group, prints as JSON."""
        command = [sys.executable, "-c", self.joining(script)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    def oom_kills(self) -> int:
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return int(re.findall(r"^oom_kill (\d+)$", (self.folder / name).read_text(), re.MULTILINE)[0])

    def set_limit(self, limit: int) -> None:
        (self.folder / _LIMIT[self.version]).write_text(str(limit))

    def charged(self) -> int:
        """Bytes that the kernel counts, cached files among them."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        return int((self.folder / name).read_text())

    def remove(self) -> None:
        """Take the group away, and whatever a test that failed left running in it."""
        deadline = time.monotonic() + GONE_S
        while True:
            for pid in self._members.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            try:
                self.folder.rmdir()
            except OSError:
                assert time.monotonic() < deadline, f"{self.folder} is not empty"
                time.sleep(0.02)
            else:
                return

    @property
    def _members(self) -> Path:
        return self.folder / "cgroup.procs"


_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}


@contextmanager
def memory_group(limit: int, parent: MemoryGroup | None = None) -> Iterator[MemoryGroup]:
    """A new memory cgroup with a limit, below ours or below `parent`; skips the test where there is none to be had."""
    above = parent or _own_group()
    group = replace(above, folder=above.folder / f"nimad-test-{os.getpid()}-{time.monotonic_ns()}")
    try:
        group.folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made below {above.folder} ({error.strerror}): run as root")
    try:
        try:
            group.set_limit(limit)
        except OSError as error:  # of version 2: a group with processes in it gives its children no limits
            pytest.skip(f"a memory cgroup below {above.folder} can have no limit ({error.strerror})")
        yield group
    finally:
        group.remove()


def _own_group() -> MemoryGroup:
    """The group this process is in, in the hierarchy that counts memory."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _existing(MemoryGroup(Path(f"/sys/fs/cgroup/memory{path}"), 1))
    own = Path("/proc/self/cgroup").read_text().partition("0::")[2].splitlines()[0]
    return _existing(MemoryGroup(Path(f"/sys/fs/cgroup{own}"), 2))


def _existing(group: MemoryGroup) -> MemoryGroup:
    if not group.folder.is_dir():
        pytest.skip(f"this machine shows no memory cgroup at {group.folder}")
    return group


AVAILABLE = "import json\nfrom nimad.host import machine\nprint(json.dumps(machine.available_memory()))"


def test_the_limit_of_the_group_around_us_is_the_memory_there_is() -> None:
    with memory_group(300 * MIB) as group:
        assert 200 * MIB < group.ask(AVAILABLE) < 300 * MIB


@pytest.mark.parametrize(("outer", "inner"), [(300, 500), (500, 300)])
def test_of_nested_groups_the_tightest_counts(outer: int, inner: int) -> None:
    with memory_group(outer * MIB) as parent, memory_group(inner * MIB, parent) as group:
        assert 200 * MIB < group.ask(AVAILABLE) < 300 * MIB


def test_a_group_without_a_limit_of_its_own_is_as_large_as_the_one_around_it() -> None:
    with memory_group(300 * MIB) as parent, memory_group(1 << 50, parent) as group:
        assert 200 * MIB < group.ask(AVAILABLE) < 300 * MIB


def test_cached_files_are_no_memory_in_use(tmp_path: Path) -> None:
    """A file of 120 MB, read in a group of 200: the kernel charges it, and gives it back when somebody needs room."""
    file = tmp_path / "large"
    file.write_bytes(b"\xaa" * 120_000_000)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with memory_group(200 * MIB) as group:
        read = f"with open({str(file)!r}, 'rb') as file:\n    while file.read(1 << 20): pass\n"
        available = group.ask(read + AVAILABLE)
        if group.charged() < 100 * MIB:
            pytest.skip(f"the file system of {tmp_path} caches nothing in the group that reads")
        assert available > 120 * MIB


def test_the_plan_of_a_run_stays_within_its_group(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=200, dimension=8)
    with memory_group(320 * MIB) as group:
        words = ("migrate", "--json", "--source", str(source))
        command = [sys.executable, "-c", group.joining(f"{HURRY}\nmain()"), *words]
        done = subprocess.run(command, check=False, capture_output=True, timeout=60, cwd=tmp_path)
        assert group.oom_kills() == 0
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    plan = next(event["plan"] for event in events if event["event"] == "Planned")
    assert plan["memory_available"] < 320 * MIB
    assert plan["pool_limit"] + WORKER_BASE < 320 * MIB
    assert plan["pool_bytes"] <= plan["pool_limit"]
    assert_all_there(source, target_of(source))


# What the user says


def test_max_memory_is_what_the_plan_is_made_with(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=60, dimension=8)
    for said in ("300M", 300 * MIB):
        run = migrate(source, max_memory=said, dry_run=True)
        plan = run.only(Planned).plan
        assert plan["memory_available"] == 300 * MIB - SUPERVISOR
        assert plan["pool_limit"] <= 300 * MIB - WORKER_BASE
        assert plan["pool_bytes"] <= 150 * MIB


def test_a_run_within_max_memory_is_whole(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=600, dimension=64)
    said = run_to_the_end(source, "--max-memory", "300M")
    assert "out of memory" not in said
    assert_all_there(source, target_of(source))


# Too little memory


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("output-")}


def test_too_little_memory_ends_the_run_before_anything_is_written(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=60, dimension=8)
    before = files_in(tmp_path)
    with Life(source, "--max-memory", "100M") as life:
        assert life.wait() == ExitCode.INTERRUPTED
    message = life.said
    left = (100 * MIB - SUPERVISOR) // 10**6
    assert f"--max-memory 100M (104 MB) leaves {left} MB beside the 37 MB of this program itself" in message
    assert "are free" not in message, "nobody has looked"
    needed = re.search(r"needs about (\d+) MB .*--max-memory (\d+)M.*--force", message)
    assert needed, message
    assert abs(int(needed[2]) * MIB - SUPERVISOR - int(needed[1]) * 10**6) < 2 * MIB, "both numbers say the same"
    assert "Traceback" not in message
    assert files_in(tmp_path) == before


@pytest.mark.long
def test_what_the_message_says_is_enough(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=60, dimension=8)
    with pytest.raises(RefusedError) as caught:
        migrate(source, max_memory="100M")
    said = re.search(r"--max-memory (\w+);", str(caught.value))
    assert said
    run = migrate(source, max_memory=said[1])
    assert_all_there(source, run.target)


@pytest.mark.long
def test_a_file_that_is_not_compacted_for_want_of_memory_comes_with_the_way_to_a_smaller_one(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=2_500, dimension=384)
    said = run_to_the_end(source, "--max-memory", "200M", "--fixed-batch", "250")
    (line,) = [line for line in said.splitlines() if "Not compacted" in line]
    assert "bytes of memory needed" in line
    needed, available = (int(number.replace(",", "")) for number in re.findall(r"[\d,]{9,}", line))
    assert needed > available
    command = line.partition("; once there is more, make a smaller one with: ")[2]
    assert command.endswith(f" migrate --source {source} --target {target_of(source)} --replace")
    before = target_of(source).stat().st_size
    assert "Compacted: " in run_to_the_end(source, "--replace", "--fixed-batch", "250")
    assert target_of(source).stat().st_size < before / 2
    assert_all_there(source, target_of(source))


def test_force_goes_on_with_too_little_memory(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=60, dimension=8)
    said = run_to_the_end(source, "--max-memory", "100M", "--force")
    assert "Verified: " in said
    assert_all_there(source, target_of(source))


def test_a_group_that_is_too_small_ends_the_run_before_anything_is_written(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=60, dimension=8)
    before = files_in(tmp_path)
    with memory_group(140 * MIB) as group:
        script = group.joining(f"{HURRY}\nsys.exit(main())")
        with Life(source, "migrate", "--source", str(source), script=script) as life:
            assert life.wait() == ExitCode.INTERRUPTED, life.said
        assert group.oom_kills() == 0
    assert "the engine needs about" in life.said
    assert files_in(tmp_path) == before


# A pool that is too small


def with_pool(monkeypatch: pytest.MonkeyPatch, pool: int, limit: int, **values: Any) -> None:
    """Have the plan begin with this pool, and raise it to this limit at most."""

    def planned(settings: Settings, found: Survey) -> Plan:
        plan = make_plan(settings, found)
        return replace(plan, pool_bytes=pool, pool_limit=limit, batch_bytes=64 * MIB, page_bytes=4096, **values)

    monkeypatch.setattr(prepare, "make_plan", planned)


def rows_loaded(events: list[Event], table: str = "memory_nodes") -> list[int]:
    return [event.rows for event in events if isinstance(event, BatchLoaded) and event.table == table]


def test_a_full_pool_is_raised_before_the_batch_is_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=1_200, dimension=384)
    with_pool(monkeypatch, 12 * MIB, 192 * MIB)
    run = migrate(source, clock=Hurried(), batch_size=1_200)
    raised = [event.pool for event in run.all(PoolRaised)]
    assert raised, "the pool was never full"
    assert all(later == min(2 * earlier, 192 * MIB) for earlier, later in pairwise([12 * MIB, *raised]))
    assert rows_loaded(run.events) == [1_200], "with a larger pool, the whole batch goes through"
    assert all("buffer pool is full" in event.message for event in run.all(BatchFailed))
    assert run.only(Verified)
    assert_all_there(source, run.target)


@pytest.mark.long
def test_a_pool_at_its_limit_has_the_batch_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pool may be noticed only after the rows were written; then the smaller batch finds them there."""
    noise = random.Random(1)
    source = make_memory(
        tmp_path / "graph.sqlite", nodes=[node(key, text=noise.randbytes(5_000).hex()) for key in range(1, 2_001)]
    )
    with_pool(monkeypatch, 54 * MIB, 108 * MIB)
    run = migrate(source, clock=Hurried(), batch_size=2_000)
    order = [type(event) for event in run.events if isinstance(event, BatchFailed | PoolRaised | BatchLoaded)]
    assert order[:3] == [BatchFailed, PoolRaised, BatchFailed]
    assert [event.pool for event in run.all(PoolRaised)] == [108 * MIB]
    assert rows_loaded(run.events)[0] == 1_000
    assert sum(rows_loaded(run.events)) == 2_000
    assert_all_there(source, run.target)


# Out of memory for real


def large_rows(folder: Path, rows: int, size: int) -> Path:
    nodes = [node(key, text=f"{key} " + "x" * size) for key in range(1, rows + 1)]
    return make_memory(folder / "graph.sqlite", nodes=nodes)


def run_in(group: MemoryGroup, source: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Run with a plan for far more memory than the group has; the exit code, all that was said, and the events."""
    script = group.joining(f"{HURRY}\n{NO_ROOM_TO_WAIT}\nsys.exit(main())")
    words = ("migrate", "--json", "--source", str(source), "--max-memory", "4G", *options)
    with Life(source, *words, script=script) as life:
        status = life.wait()
        return status, life.said, [json.loads(line) for line in life.said.splitlines() if line.startswith("{")]


def loaded_in(events: list[dict[str, Any]]) -> list[int]:
    return [event["rows"] for event in events if event["event"] == "BatchLoaded" and event["table"] == "memory_nodes"]


@pytest.mark.long
def test_after_the_kernel_killed_a_worker_the_batch_becomes_smaller(tmp_path: Path) -> None:
    """In a group that has room for some of the rows at once, and not for all."""
    source = large_rows(tmp_path, 48, 400_000)
    with memory_group(250 * MIB) as group:
        status, said, events = run_in(group, source)
        assert group.oom_kills() > 0, said
    assert status == ExitCode.COMPLETE, said
    failed = [event["message"] for event in events if event["event"] == "BatchFailed"]
    assert set(failed) == {"the worker was ended by the kernel: out of memory (SIGKILL)"}
    assert loaded_in(events)[0] < 48
    assert sum(loaded_in(events)) == 48
    assert_all_there(source, target_of(source))


@pytest.mark.long
def test_a_group_too_small_for_the_memory_ends_the_run_and_keeps_what_was_counted(tmp_path: Path) -> None:
    """The supervisor outlives its workers; without the limit, the next run has only the rest to do."""
    source = large_rows(tmp_path, 12, 4_000_000)
    with memory_group(250 * MIB) as group:
        status, said, events = run_in(group, source)
        assert group.oom_kills() > 0, said
    assert not target_of(source).exists()
    assert "out of memory (SIGKILL)" in said
    assert events[-1]["event"] == "Failed", said
    assert status == ExitCode.INTERRUPTED, said
    assert "free some memory" in events[-1]["message"]
    kept = nodes_kept(source)
    assert kept == sum(loaded_in(events))

    run = migrate(source)
    assert run.only(Started).found["MemoryNode"] == kept
    assert sum(rows_loaded(run.events)) == 12 - kept, "what was counted is not loaded again"
    assert_all_there(source, run.target)


@pytest.mark.long
def test_a_row_that_no_worker_has_room_for_does_not_take_the_supervisor_down(tmp_path: Path) -> None:
    """It is set aside whole, which must not take more memory than loading it."""
    source = large_rows(tmp_path, 1, 60_000_000)
    with memory_group(160 * MIB) as group:
        status, said, _ = run_in(group, source)
        assert group.oom_kills() > 0, said
    assert status in (ExitCode.QUARANTINED, ExitCode.INTERRUPTED), said
    assert "Traceback" not in said


def nodes_kept(source: Path) -> int:
    """How many nodes an ended run says that it has kept."""
    message = str(state_of(target_of(source))["message"])
    found = re.search(r"(\d+) of \d+ nodes are kept", message)
    assert found, message
    return int(found[1])


# The plan, over many machines and memories

MEMORIES = [128 * MIB, 256 * MIB, 512 * MIB, GIB, 2 * GIB, 8 * GIB, 64 * GIB]
ROWS = [0, 1, 500, 9_770, 131_072, 131_073, 2_000_000]
ROW_BYTES = [100, 5_500, 60_000]
PAGES = [4_096, 16_384, 65_536]
ADDRESSES = [None, 1 << 46, 8 * GIB, 3 * GIB + 12_345]
SOURCE = Path("/nonexistent/graph.sqlite")


def surveyed(rows: int, row_bytes: int) -> Survey:
    """What a memory of so many nodes of so many bytes looks like."""
    nodes = TableSurvey(rows, rows * row_bytes, rows or None, 0)
    schema = Schema(Table("memory_nodes", "id", (), ()), None, None, 384)
    identity = Identity(str(SOURCE), 1)
    return Survey(identity, 4_096 + int(1.6 * rows * row_bytes), schema, {"memory_nodes": nodes}, {}, (), 1)


def plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Plan, Survey]]:
    for memory, page, rows, size in product(MEMORIES, PAGES, ROWS, ROW_BYTES):
        monkeypatch.setattr(machine, "available_memory", lambda memory=memory: memory)
        monkeypatch.setattr(machine, "page_bytes", lambda page=page: page)
        found = surveyed(rows, size)
        yield make_plan(Settings(source=SOURCE), found), found


def test_a_plan_that_is_accepted_fits_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = 0
    for plan, _ in plans(monkeypatch):
        assert plan.pool_bytes <= plan.pool_limit
        if plan.memory_available < plan.memory_needed:
            with pytest.raises(RefusedError, match=r"MB of memory are free.*--max-memory \d+M; --force"):
                plan.check_memory()
            continue
        plan.check_memory()
        accepted += 1
        assert plan.pool_limit + WORKER_BASE <= plan.memory_available
        assert plan.pool_for(1 << 50, plan.pool_bytes) <= plan.pool_limit
        if plan.early_worker:
            assert plan.pool_bytes + WORKER_BASE < plan.memory_available
    assert accepted > 100


def test_a_batch_and_a_chunk_are_a_small_part_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for plan, _ in plans(monkeypatch):
        for size in (plan.batch_bytes, plan.chunk_bytes, plan.compared_bytes):
            assert MIB <= size <= max(MIB, plan.memory_available // 16)
        assert plan.batch_bytes <= max(MIB, plan.pool_bytes // 5)


def test_memory_that_the_message_asks_for_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for plan, found in plans(monkeypatch):
        if plan.memory_available >= plan.memory_needed:
            continue
        with pytest.raises(RefusedError) as caught:
            plan.check_memory()
        said = re.search(r"--max-memory (\w+);", str(caught.value))
        assert said
        make_plan(Settings(source=SOURCE, max_memory=said[1]), found).check_memory()


def test_more_memory_never_makes_a_smaller_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    by_data: dict[tuple[int, int, int], list[Plan]] = {}
    for plan, found in plans(monkeypatch):
        by_data.setdefault((plan.page_bytes, found.nodes.rows, found.row_bytes), []).append(plan)
    for several in by_data.values():
        for less, more in pairwise(several):
            assert less.pool_bytes <= more.pool_bytes
            assert less.pool_limit <= more.pool_limit
            assert less.batch_bytes <= more.batch_bytes
            assert less.memory_needed == more.memory_needed


def test_on_large_pages_the_pool_is_larger_than_the_file_by_the_measured_factor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for plan, _ in plans(monkeypatch):
        for file in (0, MIB, 50 * MIB, 400 * MIB, 3 * GIB):
            pool = plan.pool_for(file, plan.pool_bytes)
            assert plan.pool_bytes <= pool <= max(plan.pool_limit, plan.pool_bytes)
            if plan.page_bytes == 4_096:
                assert pool == plan.pool_bytes
            else:
                assert pool >= min(LARGE_PAGE_FACTOR * file, plan.pool_limit)


def test_on_large_pages_a_plan_that_is_accepted_has_the_factor_for_the_whole_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for plan, found in plans(monkeypatch):
        if plan.page_bytes > 4_096 and plan.memory_available >= plan.memory_needed:
            assert plan.pool_limit >= LARGE_PAGE_FACTOR * found.row_bytes


def test_the_address_space_is_a_power_of_two_and_enough_or_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, rows, size in product(ADDRESSES, ROWS, ROW_BYTES):
        monkeypatch.setattr(machine, "address_space", lambda limit=limit: limit)
        found = surveyed(rows, size)
        space = make_plan(Settings(source=SOURCE), found).address_space_bytes
        assert space.bit_count() == 1
        if limit is None or limit > 4 * 64 * found.size:
            assert space >= 16 * found.size
        if limit is None:
            assert space >= ADDRESS_SPACE_FLOOR
            assert space >= 64 * found.size
        else:
            assert space <= limit // 2


def test_batches_grow_to_a_node_group_and_take_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for plan, found in plans(monkeypatch):
        size, left, batches = plan.first_batch, found.nodes.rows, 0
        while left > 0:
            assert size <= NODE_GROUP_ROWS
            left -= plan.take(left, size)
            size = plan.next_size(size)
            batches += 1
        assert plan.total_batches == max(batches, -(-found.nodes.bytes // plan.batch_bytes))


@pytest.mark.parametrize("kind", ["INTEGER", "TEXT"])
def test_a_memory_of_many_columns_needs_no_second_try(tmp_path: Path, kind: str) -> None:
    """The engine keeps a whole node group of each column in its pool, however few rows there are."""
    columns = [f"column_{number}" for number in range(300)]
    schema = [f"ALTER TABLE memory_nodes ADD COLUMN {name} {kind}" for name in columns]
    rows = [node(key, **dict.fromkeys(columns, key)) for key in (1, 2)]
    run = migrate_smoothly(make_memory(tmp_path / "graph.sqlite", schema=schema, nodes=rows))
    assert (run.result.exit_code, run.result.migrated) == (0, 2)


def test_the_plan_of_a_real_memory_is_what_its_survey_asks_for(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=500, dimension=64)
    found = survey(SourceFile(source))
    plan = make_plan(Settings(source=source), found)
    assert plan.page_bytes == os.sysconf("SC_PAGE_SIZE")
    assert plan.threads <= len(os.sched_getaffinity(0))
    assert plan.disk_needed > found.row_bytes
    assert nimad.Settings is Settings
    assert not staging_of(source).exists()
