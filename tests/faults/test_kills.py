"""SIGKILL at any instant, to the supervisor and to its workers, loses, doubles and changes no row.

The instants are random, from a seed that a failure names. `make faults` kills 400 times, `NIMAD_KILLS=2000 make faults`
2,000 times; a quarter of the kills hits supervisors. With `NIMAD_FIGURES=path` the figures are written there as JSON.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.memories import Memory, assert_same, change, edge, make_memory, node, turn, vector
from support.torture import (
    LISTEN_S,
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

#: Kills of one chain of runs: one at the supervisor, the others at its workers.
KILLS = 4
#: Kills of a default run, and of a long one.
SHORT_KILLS = 2
LONG_KILLS = int(os.environ.get("NIMAD_KILLS", "400"))
#: The chains in turn: which memory, and the options of its runs. Small batches make many workers, growing and large
#: ones make them live longer.
CHAINS = (
    ("sample", ("--fixed-batch", "50")),
    ("many", ("--fixed-batch", "2000")),
    ("sample", ("--batch-size", "50")),
    ("many", ("--batch-size", "1000")),
    ("sample", ("--fixed-batch", "200")),
    ("many", ("--fixed-batch", "1000")),
    ("sample", ("--fixed-batch", "100")),
    ("many", ("--batch-size", "500")),
    ("sample", ("--batch-size", "200")),
    ("many", ("--batch-size", "2000")),
)
#: Seconds, at most, from the event of a run that a kill waits for to the kill: about a worker's life.
LONGEST_WAIT_S = 0.8
#: Events of an undisturbed run beside its batches of nodes, and the one that says how many of those there will be.
OTHER_EVENTS = 13
PLANNED = 3
#: Chains at once: while one waits for a retry, others use the processors.
AT_ONCE = 4
#: Undisturbed runs until one has to complete.
LAST_RUNS = 2
#: Seconds after which no worker may have outlived its supervisor: one that was just forked is bound to it once Python
#: has started, which takes its time on a busy machine.
ORPHANS_GONE_S = 10.0
#: Nodes of the memory that has several batches of 2,000.
MANY_NODES = 5_000

#: Which of a run's workers is hit, from the oldest: that one works, the youngest waits for its turn.
WORKERS = {"working": 0, "waiting": -1}
#: Ends of a run that was disturbed.
ENDS = (ExitCode.COMPLETE, ExitCode.INTERRUPTED, -signal.SIGKILL)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_memory(tmp_path_factory.mktemp("memory") / "graph.sqlite")


@pytest.fixture(scope="module")
def memories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sample as it is met in the field, and one of many small rows."""
    folder = tmp_path_factory.mktemp("memories")
    many = make_memory(
        folder / "many.sqlite",
        nodes=[
            node(key, text=f"memory {key} " * (key % 40), embedding=vector(key, 0.5))
            for key in range(1, MANY_NODES + 1)
        ],
        edges=[edge(key, key, MANY_NODES + 1 - key) for key in range(1, 3_001)],
        turns=[turn(key, key, None, key + 1) for key in range(1, 2_001)],
    )
    return {"sample": small_memory(folder / "sample.sqlite", nodes=600), "many": many}


@pytest.fixture
def source(tmp_path: Path, memory: Path) -> Path:
    return Path(shutil.copy(memory, tmp_path / "graph.sqlite"))


@dataclass
class Figures:
    """What a number of chains came to."""

    kills: Counter[str] = field(default_factory=Counter)  # by victim
    phases: Counter[str] = field(default_factory=Counter)  # of the run, at the kill
    runs: int = 0
    resumes: int = 0  # runs that found an unfinished target, and opened it
    completed: int = 0
    logs_set_aside: int = 0
    rows_compared: int = 0
    rows_lost: int = 0  # the first lost, doubled or changed row fails the test, so these never are anything else
    rows_doubled: int = 0
    rows_changed: int = 0

    def add(self, other: "Figures") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def write_figures(name: str, figures: Mapping[str, Any]) -> None:
    """Write a test's figures where `NIMAD_FIGURES` says: into a file of their own in that folder, or into that file."""
    if path := os.environ.get("NIMAD_FIGURES"):
        file = Path(path, f"{name}.json") if Path(path).is_dir() else Path(path)
        file.write_text(json.dumps(figures, indent=2) + "\n")


def rows_of(memory: Memory) -> int:
    links = sum(len(pairs) for pairs in memory.links.values())
    return len(memory.nodes) + len(memory.edges) + len(memory.turns) + links


class Chain:
    """Runs on one memory, each killed at some instant, until all kills are dealt out and a run completes."""

    def __init__(self, folder: Path, memories: Mapping[str, Path], number: int, seed: int) -> None:
        name, self.options = CHAINS[number % len(CHAINS)]
        folder.mkdir()
        self.source = Path(shutil.copy(memories[name], folder / "graph.sqlite"))
        self.target = target_of(self.source)
        self.random = random.Random(seed + number)
        self.victims = ["supervisor", *self.random.choices([*WORKERS], k=KILLS - 1)]
        self.random.shuffle(self.victims)
        self.figures = Figures()
        self.counted = 0  # nodes that a worker has counted in the unfinished target
        self.story = [f"seed {seed}, chain {number}: {name} {' '.join(self.options)}"]

    def play(self) -> Figures:
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
        return self.figures

    def _live(self) -> tuple[int, str]:
        """One run, in which workers are killed until it ends or is killed itself. Its status, and what it said."""
        begun, done = staging_of(self.source).exists(), 0.0
        with Watch(self.target) as watch, Life(self.source, *self.options, "--json") as life:
            while self.victims and not life.over:
                done = self.random.uniform(done, 1.0)
                self._let_it_go_on(life, done)
                self._strike(life)
            status = life.wait()
        self.story.append(f"exit {status}")
        self.figures.runs += 1
        assert watch.early == []
        assert status in ENDS, life.said
        if status == -signal.SIGKILL:
            assert_orphans_gone(life)
        self._check_reopening(heard(life), begun=begun)
        if status == ExitCode.COMPLETE:
            self._check_and_clear()
        return status, life.said

    def _let_it_go_on(self, life: Life, share: float) -> None:
        """Wait until about this share of the run is done: counted in events, as time depends on the machine."""
        while not life.over and not reached(heard(life), share):
            time.sleep(LISTEN_S)
        until = time.monotonic() + self.random.uniform(0, LONGEST_WAIT_S)
        while not life.over and time.monotonic() < until:
            time.sleep(LISTEN_S)

    def _strike(self, life: Life) -> None:
        victim = self.victims[-1]
        if life.over:
            return
        if victim == "supervisor":
            life.kill()
        elif not life.kill_worker(WORKERS[victim]):
            return  # between two workers
        self.victims.pop()
        phase = str(state_of(self.target).get("phase", "analysing"))
        self.figures.kills[victim] += 1
        self.figures.phases[phase] += 1
        self.story.append(f"{victim} killed in «{phase}»")

    def _check_reopening(self, events: list[dict[str, Any]], *, begun: bool) -> None:
        """What was counted before is still there, and the unfinished target was never set aside."""
        aside = [event for event in events if event["event"] == "SetAside"]
        assert not [event for event in aside if event["whole"]], f"did not open: {aside}"
        self.figures.logs_set_aside += len(aside)
        for event in events:
            if event["event"] == "Started":
                found = event["found"].get("MemoryNode", 0)
                assert found >= self.counted, f"{found} nodes found where {self.counted} were counted"
                self.figures.resumes += begun
        self.counted = max(self.counted, nodes_counted(events))

    def _check_and_clear(self) -> None:
        self.figures.rows_compared += rows_of(assert_same(self.source, self.target))
        self.figures.completed += 1
        assert_nothing_left(self.target)
        if self.victims:  # the run was faster than the kills: another one takes the others
            for path in self.target.parent.glob(self.target.name + "*"):
                path.unlink()
            self.counted = 0


def heard(life: Life) -> list[dict[str, Any]]:
    """The events that a run told with `--json`, but for one that a kill cut off."""
    lines = [line for line in life.said.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")]
    return [json.loads(line) for line in lines]


def reached(events: list[dict[str, Any]], share: float) -> bool:
    batches = events[PLANNED - 1]["total_batches"] if len(events) >= PLANNED else 0
    return len(events) >= share * (OTHER_EVENTS + batches)


def nodes_counted(events: list[dict[str, Any]]) -> int:
    """Nodes up to the last batch but one: it is the batch after it whose worker counted them."""
    batches = [event for event in events if event["event"] == "BatchLoaded"]
    return max((event["done"] for event in batches[:-1] if event["table"] == "memory_nodes"), default=0)


def assert_orphans_gone(life: Life) -> None:
    deadline = time.monotonic() + ORPHANS_GONE_S
    while orphans := life.workers():
        assert time.monotonic() < deadline, f"workers {orphans} outlive their supervisor"
        time.sleep(LOOK_S)


def play(folder: Path, memories: Mapping[str, Path], kills: int) -> None:
    """Deal out so many kills in chains, some of them at once."""
    seed = random.SystemRandom().randrange(10**9)
    began, total = time.monotonic(), Figures()
    chains = [Chain(folder / f"chain-{number}", memories, number, seed) for number in range(-(-kills // KILLS))]
    with ThreadPoolExecutor(AT_ONCE) as executor:
        for figures in executor.map(Chain.play, chains):
            total.add(figures)
    dealt = {"children": total.kills["working"] + total.kills["waiting"], "supervisors": total.kills["supervisor"]}
    assert sum(dealt.values()) >= kills
    facts = {"seed": seed, **dealt, "seconds": round(time.monotonic() - began, 1), **vars(total)}
    write_figures("kills", {**facts, "batches": sorted({" ".join(options) for _, options in CHAINS})})


def test_a_memory_survives_some_kills_at_random_instants(tmp_path: Path, memories: Mapping[str, Path]) -> None:
    play(tmp_path, memories, SHORT_KILLS)


@pytest.mark.long
def test_a_memory_survives_any_number_of_kills(tmp_path: Path, memories: Mapping[str, Path]) -> None:
    play(tmp_path, memories, LONG_KILLS)


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


@pytest.mark.long
def test_a_supervisor_may_die_between_any_two_steps(source: Path) -> None:
    target = target_of(source)
    for event in ("Started", "BatchLoaded", "TableLoaded", "Verified"):
        die_at(source, event)
        assert not target.exists(), event
    die_at(source, "Published")
    assert_same(source, target)
    assert "complete: 800 memories" in run_to_the_end(source)
    assert_nothing_left(target)


@pytest.mark.long
def test_after_a_run_that_died_after_publishing_the_next_brings_what_came_since(source: Path) -> None:
    die_at(source, "Published")
    change(source, "INSERT INTO memory_nodes (text, layer) VALUES ('later', 'input')")
    assert "is complete: 801 memories" in run_to_the_end(source)
    assert_same(source, target_of(source))


#: Leaves a write-ahead log behind, as a machine does that loses its power.
LEAVES_A_LOG = """
import os, sys
import ladybug
database = ladybug.Database(sys.argv[1], max_db_size=1 << 34, auto_checkpoint=False)
connection = ladybug.Connection(database)
connection.execute("MATCH (n:MemoryNode) SET n.summary = n.text")
os._exit(0)
"""


@pytest.mark.long
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


@pytest.mark.long
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
