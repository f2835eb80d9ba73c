"""SIGKILL at any instant, to the supervisor and to its workers, loses and doubles no row.

The instants are random, from a seed that a failure names. ``NIMAD_KILLS=2000 pytest -m long tests/test_crash.py``
kills as often as that; without it, the long test kills 400 times.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import assert_same, change
from torture import (
    LOOK_S,
    Life,
    Watch,
    assert_nothing_left,
    beside,
    run_to_the_end,
    small_memory,
    staging_of,
    state_of,
    target_of,
)

from nimad.errors import ExitCode

#: Kills of one chain of runs: half at the supervisor, the others at its workers.
KILLS = 10
#: Options of the chains, in turn. Small batches make many workers, growing ones make them live longer.
OPTIONS = (("--fixed-batch", "50"), ("--fixed-batch", "100"), ("--batch-size", "200"), ("--batch-size", "400"))
LONG_KILLS = int(os.environ.get("NIMAD_KILLS", "400"))
#: Seconds, at most, between one kill and the next.
LONGEST_WAIT_S = 1.2
#: Chains at once: while one waits for a retry, others use the processors.
AT_ONCE = 3
#: Undisturbed runs until one has to complete.
LAST_RUNS = 2
#: Seconds after which no worker may have outlived its supervisor: one that was just forked is bound to it once Python
#: has started, which takes its time on a busy machine.
ORPHANS_GONE_S = 10.0

#: Which of a run's workers is hit, from the oldest: that one works, the youngest waits for its turn.
WORKERS = {"working": 0, "waiting": -1}


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_memory(tmp_path_factory.mktemp("memory") / "graph.sqlite")


@pytest.fixture
def source(tmp_path: Path, memory: Path) -> Path:
    return Path(shutil.copy(memory, tmp_path / "graph.sqlite"))


class Chain:
    """Runs on one memory, each killed at some instant, until all kills are dealt out and a run completes."""

    def __init__(self, folder: Path, memory: Path, seed: int, options: Sequence[str]) -> None:
        folder.mkdir()
        self.source = Path(shutil.copy(memory, folder / "graph.sqlite"))
        self.target = target_of(self.source)
        self.options = options
        self.random = random.Random(seed)
        self.victims = ["supervisor"] * (KILLS - KILLS // 2) + [*WORKERS] * (KILLS // 4)
        self.victims += ["working"] * (KILLS - len(self.victims))
        self.random.shuffle(self.victims)
        self.story = [f"seed {seed}, {' '.join(options)}"]

    def play(self) -> None:
        last = ""
        try:
            status = -signal.SIGKILL.value
            while self.victims:
                status, last = self._live()
            for _ in range(LAST_RUNS):
                if status != ExitCode.COMPLETE:
                    status, last = self._live()
            assert status == ExitCode.COMPLETE
        except AssertionError as error:
            raise AssertionError(f"{'; '.join(self.story)}\n{error}\n{last}") from error

    def _live(self) -> tuple[int, str]:
        """One run, in which workers are killed until it ends or is killed itself. Its status, and what it said."""
        with Watch(self.target) as watch, Life(self.source, *self.options) as life:
            while self.victims and not life.over:
                self._let_it_go_on(life)
                self._strike(life)
            status = life.wait()
        self.story.append(f"exit {status}")
        assert watch.early == []
        assert status in (ExitCode.COMPLETE, ExitCode.INTERRUPTED, -signal.SIGKILL), life.said
        if status == -signal.SIGKILL:
            assert_orphans_gone(life)
        if status == ExitCode.COMPLETE:
            self._check_and_clear()
        return status, life.said

    def _let_it_go_on(self, life: Life) -> None:
        until = time.monotonic() + self.random.uniform(0, LONGEST_WAIT_S)
        while time.monotonic() < until and not life.over:
            time.sleep(LOOK_S)

    def _strike(self, life: Life) -> None:
        victim = self.victims[-1]
        if life.over:
            return
        if victim == "supervisor":
            life.kill()
        elif not life.kill_worker(WORKERS[victim]):
            return  # between two workers
        self.victims.pop()
        self.story.append(f"{victim} killed in «{state_of(self.target).get('phase')}»")

    def _check_and_clear(self) -> None:
        assert_same(self.source, self.target)
        assert_nothing_left(self.target)
        if self.victims:  # the run was faster than the kills: another one takes the others
            for path in self.target.parent.glob(self.target.name + "*"):
                path.unlink()


def assert_orphans_gone(life: Life) -> None:
    deadline = time.monotonic() + ORPHANS_GONE_S
    while orphans := life.workers():
        assert time.monotonic() < deadline, f"workers {orphans} outlive their supervisor"
        time.sleep(LOOK_S)


def play(folder: Path, memory: Path, kills: int, seed: int) -> None:
    """Deal out so many kills in chains, some of them at once."""
    chains = [
        Chain(folder / f"chain-{number}", memory, seed + number, OPTIONS[number % len(OPTIONS)])
        for number in range(kills // KILLS)
    ]
    with ThreadPoolExecutor(AT_ONCE) as executor:
        for _ in executor.map(Chain.play, chains):
            pass


def test_a_memory_survives_forty_kills_at_random_instants(tmp_path: Path, memory: Path) -> None:
    play(tmp_path, memory, 40, seed=random.SystemRandom().randrange(10**9))


@pytest.mark.long
def test_a_memory_survives_any_number_of_kills(tmp_path: Path, memory: Path) -> None:
    play(tmp_path, memory, LONG_KILLS, seed=random.SystemRandom().randrange(10**9))


#: A run that kills itself when it is about to tell of a certain event.
DIES_AT = """
import os, signal, sys
import nimad
source, name = sys.argv[1:]
def listen(event):
    if type(event).__name__ == name:
        os.kill(os.getpid(), signal.SIGKILL)
nimad.migrate(nimad.Settings(source=source, batch_size=400), listen)
"""


def die_at(source: Path, event: str) -> None:
    with Life(source, str(source), event, script=DIES_AT) as life:
        assert life.wait() == -signal.SIGKILL, life.said
        assert_orphans_gone(life)


def test_a_supervisor_may_die_between_any_two_steps(source: Path) -> None:
    target = target_of(source)
    for event in ("Started", "BatchLoaded", "TableLoaded", "Verified"):
        die_at(source, event)
        assert not target.exists(), event
    die_at(source, "Published")
    assert_same(source, target)
    assert "complete: 800 memories" in run_to_the_end(source)
    assert_nothing_left(target)


def test_a_run_that_died_after_publishing_is_complete_although_the_source_has_grown(source: Path) -> None:
    die_at(source, "Published")
    change(source, "INSERT INTO memory_nodes (text, layer) VALUES ('later', 'input')")
    said = run_to_the_end(source)
    assert "is complete: 800 memories" in said
    assert "1 more reached the source since" in said


#: Leaves a write-ahead log behind, as a machine does that loses its power.
LEAVES_A_LOG = """
import os, sys
import ladybug
database = ladybug.Database(sys.argv[1], max_db_size=1 << 34, auto_checkpoint=False)
connection = ladybug.Connection(database)
connection.execute("MATCH (n:MemoryNode) SET n.summary = n.text")
os._exit(0)
"""


@pytest.mark.parametrize("torn", [pytest.param(False, marks=pytest.mark.long), True], ids=["whole", "torn"])
def test_a_write_ahead_log_that_was_left_is_replayed_or_moved_aside(source: Path, torn: bool) -> None:
    """A torn one cannot be replayed; what the last checkpoint holds is intact, and the log is kept."""
    die_at(source, "TableLoaded")
    change(source, "UPDATE memory_nodes SET summary = text")
    with Life(source, str(staging_of(source)), script=LEAVES_A_LOG) as life:
        assert life.wait() == 0, life.said
    log = beside(staging_of(source), ".wal")
    whole = log.stat().st_size
    assert whole > 100_000
    if torn:
        os.truncate(log, whole // 2)
        content = log.read_bytes()
    run_to_the_end(source)
    assert_same(source, target_of(source))
    if torn:
        assert content in [path.read_bytes() for path in source.parent.glob("graph.ladybug*")]
    else:
        assert_nothing_left(target_of(source))


def test_a_staging_file_that_was_just_created_is_no_obstacle(source: Path) -> None:
    staging_of(source).touch()
    run_to_the_end(source)
    assert_same(source, target_of(source))
    assert_nothing_left(target_of(source))


def test_workers_die_with_a_killed_supervisor(source: Path) -> None:
    with Life(source, "--fixed-batch", "50") as life:
        life.wait_for("Batch 2/")
        life.wait_until(lambda: len(life.workers()) == 2, "a working and a waiting worker")
        life.kill()
        assert_orphans_gone(life)
    assert staging_of(source).exists()


@pytest.mark.long  # for the 21 seconds that the tries are apart
def test_a_worker_killed_four_times_stops_the_run_and_keeps_what_is_counted(source: Path) -> None:
    with Life(source, "--fixed-batch", "100") as life:
        life.wait_for("Batch 2/")
        while not life.over:
            life.kill_worker(0)
            time.sleep(LOOK_S)
        assert life.wait() == ExitCode.INTERRUPTED
    assert "failed after 4 attempts: the worker was ended by SIGKILL" in life.said
    assert "nimad migrate --source" in life.said
    assert not target_of(source).exists()
    run_to_the_end(source)
    assert_same(source, target_of(source))
