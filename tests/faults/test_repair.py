"""An unfinished target that is damaged is made to open, or built anew: what was in the way is kept, never published.

The damage is done to real files of the real engine, between two runs or in the middle of one.
"""

import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import ladybug
import pytest
from support.memories import (
    ENGINE_LIMITS,
    Hurried,
    Run,
    assert_same,
    edge,
    make_memory,
    migrate,
    node,
    read_source,
    turn,
    vector,
)
from support.torture import (
    Life,
    assert_nothing_left,
    beside,
    copy_of,
    interrupted,
    left_behind,
    run_to_the_end,
    staging_of,
    target_of,
)
from test_kills import LEAVES_A_LOG

import nimad
from nimad.errors import BatchFailedError, ExitCode, NimadError, RefusedError
from nimad.events.run import BatchLoaded, Event, SetAside, TableLoaded
from nimad.migration.repair import REBUILDS
from nimad.supervisor import worker_process

NODES, BATCH = 120, 60
PAGE = 4_096
#: Files in each of which one page is damaged, and how many of them are mended at once.
SEEDS, AT_ONCE = 20, 2
#: What a file that was set aside is called: its own name, date and time.
DATED = re.compile(r"(.+)\.\d{8}-\d{6}(-\d+)?(\.wal|\.shadow|\.wal\.checkpoint)?")


def memory(path: Path) -> Path:
    """Nodes with vectors, edges among them, turns; enough for a target of some hundred pages."""
    choice = random.Random(1)
    return make_memory(
        path,
        nodes=[
            node(key, text=choice.randbytes(600).hex(), embedding=vector(*(choice.random() for _ in range(16))))
            for key in range(1, NODES + 1)
        ],
        edges=[edge(key, key, key % NODES + 1) for key in range(1, NODES + 1)],
        turns=[turn(key, key, key + 1, key + 2) for key in range(1, 40)],
    )


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of whose nodes one batch of two was loaded."""
    source = memory(tmp_path_factory.mktemp("half-done") / "graph.sqlite")
    interrupted(source, BatchLoaded, batch_size=BATCH, fixed_batch=True)
    return source


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory whose every row was loaded, and not compared yet."""
    source = memory(tmp_path_factory.mktemp("loaded") / "graph.sqlite")
    interrupted(source, TableLoaded, nth=3)
    return source


@pytest.fixture
def source(half_done: Path, tmp_path: Path) -> Path:
    return copy_of(half_done, tmp_path)


@pytest.fixture(scope="module")
def foreign_log(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The log of another database of the same tables, whose program lost its power."""
    source = memory(tmp_path_factory.mktemp("foreign") / "graph.sqlite")
    interrupted(source, BatchLoaded)
    return log_of(source)


def log_of(source: Path) -> bytes:
    """Leave a log of changes to every node beside the unfinished target; its bytes."""
    with Life(source, str(staging_of(source)), script=LEAVES_A_LOG) as life:
        assert life.wait() == 0, life.said
    return beside(staging_of(source), ".wal").read_bytes()


def kept(source: Path) -> dict[str, bytes]:
    """What was set aside beside the target, by name."""
    return {name: (source.parent / name).read_bytes() for name in left_behind(target_of(source))}


def assert_made(source: Path, run: Run) -> None:
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(source, run.target)
    assert_findable(source, run.target)


def assert_findable(source: Path, target: Path) -> None:
    """Fail unless each row is found by its id, and each edge from both of its ends: `assert_same` uses no index."""
    here = read_source(source)
    with (
        closing(ladybug.Database(str(target), read_only=True, **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):

        def ask(cypher: str, key: int) -> list[list[int]]:
            with closing(connection.execute(cypher, {"id": key})) as result:
                rows: list[list[int]] = result.get_all()
            return rows

        for table, rows in {"MemoryNode": here.nodes, "Turn": here.turns}.items():
            found = {key: ask(f"MATCH (n:{table}) WHERE n.id = $id RETURN n.id", key) for key in rows}
            assert found == {key: [[key]] for key in rows}, f"{table}: ids that are not found"
        for key, row in here.edges.items():
            for arrow, start, end in (
                ("-[e:relates_to]->", "source_id", "target_id"),
                ("<-[e:relates_to]-", "target_id", "source_id"),
            ):
                ends = f"(a:MemoryNode){arrow}(b:MemoryNode)"
                there = ask(f"MATCH {ends} WHERE a.id = $id RETURN e.edge_id, b.id", row[start])
                assert there == [[key, row[end]]], f"edge {key}, from its {start}"


# Damage


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def zero_header(path: Path) -> None:
    overwrite(path, 0, bytes(PAGE))


def scramble(path: Path) -> None:
    """Every fourth page, at random."""
    choice = random.Random(1)
    pages = path.stat().st_size // PAGE
    for number in choice.sample(range(pages), pages // 4):
        overwrite(path, number * PAGE, choice.randbytes(PAGE))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_text(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1_000)


#: Ways in which the file itself comes to be useless.
RUINS: Mapping[str, Callable[[Path], None]] = {each.__name__: each for each in (truncate, scramble, other_text)}


# Logs that cannot be replayed


def test_a_torn_log_is_set_aside_and_what_was_counted_is_gone_on_from(source: Path) -> None:
    log = log_of(source)
    torn = log[: len(log) // 2]
    beside(staging_of(source), ".wal").write_bytes(torn)
    run = migrate(source)
    assert_made(source, run)
    aside = run.only(SetAside)
    assert not aside.whole
    assert torn in kept(source).values()
    assert_all_dated(source, aside)
    assert sum(event.rows for event in run.all(BatchLoaded) if event.table == "memory_nodes") == NODES - BATCH


def assert_all_dated(source: Path, *asides: SetAside) -> None:
    """Every file beside the target is one that was set aside, under its name and the time, and was told of."""
    told = {Path(name).name for aside in asides for name in aside.files}
    assert told == set(kept(source))
    for name in told:
        assert DATED.fullmatch(name), name
        assert name.startswith(staging_of(source).name)


@pytest.mark.sampled
@pytest.mark.parametrize("suffix", [".wal", ".wal.checkpoint"])
def test_garbage_beside_the_file_is_no_obstacle_and_is_kept(source: Path, suffix: str) -> None:
    garbage = random.Random(1).randbytes(10_000)
    beside(staging_of(source), suffix).write_bytes(garbage)
    beside(staging_of(source), ".shadow").write_bytes(garbage[::-1])
    run = migrate(source)
    assert_made(source, run)
    assert garbage in kept(source).values()
    assert garbage[::-1] in kept(source).values()
    assert_all_dated(source, *run.all(SetAside))


def test_pages_that_a_checkpoint_left_without_a_log_are_nothing_to_it(source: Path) -> None:
    """The engine throws them away itself: what a log does not name was written to the file long since."""
    beside(staging_of(source), ".shadow").write_bytes(random.Random(1).randbytes(10_000))
    run = migrate(source)
    assert_made(source, run)
    assert run.all(SetAside) == []
    assert_nothing_left(run.target)


@pytest.mark.long
def test_the_log_of_another_database_is_not_taken_in(source: Path, foreign_log: bytes) -> None:
    beside(staging_of(source), ".wal").write_bytes(foreign_log)
    run = migrate(source)
    assert_made(source, run)
    assert foreign_log in kept(source).values()


# A file that does not open


@pytest.mark.sampled
@pytest.mark.parametrize("ruin", RUINS)
def test_a_ruined_file_is_kept_and_built_anew(source: Path, ruin: str) -> None:
    RUINS[ruin](staging_of(source))
    ruined = staging_of(source).read_bytes()
    run = migrate(source, clock=Hurried())
    assert_made(source, run)
    aside = run.only(SetAside)
    assert aside.whole
    assert ruined in kept(source).values()
    assert_all_dated(source, aside)


def test_an_empty_file_is_begun_anew_in_its_place(source: Path) -> None:
    """It holds nothing that could be kept; what lies beside it is of the file that was there, and is."""
    empty(staging_of(source))
    run = migrate(source, clock=Hurried())
    assert_made(source, run)
    assert_nothing_left(run.target)


def test_the_log_says_what_was_set_aside_and_where_it_is(source: Path) -> None:
    zero_header(staging_of(source))
    beside(staging_of(source), ".wal").write_bytes(b"garbage" * 100)
    ruined = staging_of(source).read_bytes()
    said = run_to_the_end(source)
    assert_same(source, target_of(source))
    files = kept(source)
    assert sorted(files.values()) == sorted([ruined, b"garbage" * 100])
    log = source.with_name("migration.log").read_text()
    for text in (log, " ".join(said.split())):
        assert "[WARN] The last worker's log cannot be read" in text
        assert "[WARN] The unfinished target cannot be used" in text
        assert "starting over" in text
    for name in files:
        assert str(source.parent / name) in log


# In the middle of a run


def with_damage(source: Path, damage: Callable[[Path], object], *, times: int) -> Run:
    """Run anew, with damage done to the file whenever a batch of nodes went in, but only so many times."""
    heard: list[Event] = []
    done = 0

    def listen(event: Event) -> None:
        nonlocal done
        heard.append(event)
        if isinstance(event, BatchLoaded) and done < times:
            done += 1
            damage(staging_of(source))

    settings = nimad.Settings(source=source, batch_size=BATCH, fixed_batch=True)
    return Run(nimad.migrate(settings, listen, clock=Hurried()), heard)


@pytest.mark.long
def test_a_file_that_is_ruined_between_two_workers_is_built_anew_in_the_same_run(source: Path) -> None:
    run = with_damage(source, zero_header, times=1)
    assert_made(source, run)
    assert run.only(SetAside).whole
    assert_all_dated(source, run.only(SetAside))


@pytest.mark.long
def test_a_log_that_comes_to_lie_beside_it_between_two_workers_costs_no_row(source: Path, foreign_log: bytes) -> None:
    run = with_damage(source, lambda path: beside(path, ".wal").write_bytes(foreign_log), times=1)
    assert_made(source, run)
    assert [aside.whole for aside in run.all(SetAside)] == [False]
    assert foreign_log in kept(source).values()


@pytest.mark.long
def test_a_file_that_is_ruined_each_time_is_begun_anew_twice_and_no_more(source: Path) -> None:
    """Two copies beside it tell enough of a failing disk; a third would only help to fill it."""
    with pytest.raises(RefusedError, match=f"although it was started over {REBUILDS} times") as caught:
        with_damage(source, truncate, times=100)
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert "check the disk (dmesg), then start over with --restart" in str(caught.value)
    assert not target_of(source).exists()
    assert sum(bool(DATED.fullmatch(name)) for name in kept(source)) == REBUILDS
    ruined = staging_of(source).read_bytes()
    with pytest.raises(RefusedError, match=f"started over {REBUILDS} times"):  # the next run counts on
        migrate(source, clock=Hurried())
    assert staging_of(source).read_bytes() == ruined
    assert_made(source, migrate(source, restart=True, clock=Hurried()))


# Damage that shows late, or not at all


def refreshed(folder: Path, loaded: Path, seed: int) -> str:
    """Overwrite one page of a loaded file with chance, or with nothing, and run on. How that ended."""
    folder.mkdir()
    source, choice = copy_of(loaded, folder), random.Random(seed)
    staging = staging_of(source)
    number = choice.randrange(staging.stat().st_size // PAGE)
    overwrite(staging, number * PAGE, choice.randbytes(PAGE) if seed % 2 else bytes(PAGE))
    what = f"seed {seed}, page {number}"
    try:
        run = migrate(source, clock=Hurried())
    except NimadError as error:
        right = error.exit_code == ExitCode.INTERRUPTED and not target_of(source).exists() and bool(kept(source))
        return f"{what}: {'not published' if right else 'WRONG'}, exit {error.exit_code}: {error}"
    try:
        assert_made(source, run)
    except (AssertionError, RuntimeError) as error:
        return f"{what}: WRONG, published, and {' '.join(str(error).split())}"
    if run.all(SetAside):
        is_kept = any(DATED.fullmatch(name) for name in kept(source))
        return f"{what}: {'built anew' if is_kept else 'WRONG, built anew and not kept'}"
    return f"{what}: nothing lost"


@pytest.mark.long
def test_whichever_page_is_damaged_it_is_mended_or_not_published(tmp_path: Path, loaded: Path) -> None:
    with ThreadPoolExecutor(AT_ONCE) as executor:
        ends = list(executor.map(lambda seed: refreshed(tmp_path / f"{seed}", loaded, seed), range(SEEDS)))
    assert [end for end in ends if "WRONG" in end] == []
    assert any("built anew" in end for end in ends), ends


# A file that somebody else has open


#: Holds a file open for writing until its stdin ends.
HOLDER = """
import sys, ladybug
database = ladybug.Database(sys.argv[1], buffer_pool_size=1 << 27, max_db_size=1 << 34)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_a_file_that_another_program_has_open_is_left_to_it(source: Path) -> None:
    before = kept(source)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(staging_of(source))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        events: list[Event] = []
        with pytest.raises(BatchFailedError, match=rf"PID {holder.pid}\b") as caught:
            migrate(source, events=events, clock=Hurried())
        assert caught.value.exit_code == ExitCode.INTERRUPTED
        assert "close the program that has the unfinished target open" in str(caught.value)
        assert [event for event in events if isinstance(event, SetAside)] == []
        assert set(kept(source)) - {beside(target_of(source), ".migrating.wal").name} == set(before)
        holder.communicate()
    assert_made(source, migrate(source))


#: A worker that dies whenever it is to count the file whose inode is written down.
DIES_COUNTING = """
import os, sys
from pathlib import Path
from nimad.worker import __main__ as worker, tasks
from nimad.worker.protocol import Task

def count(job, module, count=tasks._count):
    if str(os.stat(job.target).st_ino) == Path({place!r}).read_text():
        os.abort()
    return count(job, module)

tasks._TASKS[Task.COUNT] = count
sys.exit(worker.main())
"""


@pytest.mark.long
def test_a_file_that_takes_down_whoever_counts_it_is_begun_anew_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 0.15.3 wrote one, with an index that it could not load."""
    source, place = memory(tmp_path / "graph.sqlite"), tmp_path / "inode"
    place.write_text("none")
    program = tmp_path / "worker.py"
    program.write_text(DIES_COUNTING.format(place=str(place)))
    monkeypatch.setattr(worker_process, "WORKER", ("-P", str(program)))

    def spoil(event: Event) -> None:
        if isinstance(event, TableLoaded) and place.read_text() == "none":
            place.write_text(str(staging_of(source).stat().st_ino))

    result = nimad.migrate(nimad.Settings(source=source), spoil, clock=Hurried())
    assert result.exit_code == ExitCode.COMPLETE
    assert_same(source, target_of(source))
    (kept,) = [path for path in tmp_path.glob("graph.ladybug.migrating.*") if DATED.fullmatch(path.name)]
    assert str(kept.stat().st_ino) == place.read_text()
