"""SIGKILL of a worker that brings late arrivals, at any instant: nothing is lost or doubled, no reader sees a half."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.memories import assert_same, edge, insert, make_memory, migrate, node, turn, vector
from support.torture import beside, target_of

import nimad
from nimad.events.run import Event, SetAside
from nimad.events.sync import CaughtUp
from nimad.sync.follower import Follower

KILLS = int(os.environ.get("NIMAD_FOLLOWING_KILLS", "5"))
#: Seconds after which a worker has done its job, most often.
LIFE_S = 0.5
LAYERS = ("input", "contemplation", "output")
NODES = 600


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(key, text=f"memory {key} " * 50, embedding=vector(*[key] * 16)) for key in range(1, NODES + 1)],
    )
    migrate(source, reader_python=Path("none"))
    return source


def live(source: Path, number: int, chance: random.Random) -> None:
    """A new turn, a recall, an edit, and now and then something forgotten."""
    first = 10_000 + 3 * number
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        insert(
            connection,
            "memory_nodes",
            [
                node(
                    first + place,
                    layer=layer,
                    turn_id=f"t{number}",
                    text="late " * 200,
                    embedding=vector(*[place] * 16),
                )
                for place, layer in enumerate(LAYERS)
            ],
        )
        insert(connection, "memory_edges", [edge(first, first, first + 1), edge(first + 1, first + 1, first + 2)])
        insert(connection, "memory_turns", [turn(number, first, first + 1, first + 2)])
        connection.execute(
            "UPDATE memory_nodes SET strength = ? WHERE id = ?", (chance.random(), chance.randrange(1, NODES))
        )
        connection.execute(
            "UPDATE memory_nodes SET text = ? WHERE id = ?", (f"edit {number}", chance.randrange(1, NODES))
        )
        if number % 4 == 0:
            connection.execute("DELETE FROM memory_nodes WHERE id = ?", (chance.randrange(1, NODES),))
        connection.execute("COMMIT")


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@contextmanager
def killer(chance: random.Random) -> Iterator[list[int]]:
    """Kill one of the workers that are started meanwhile."""
    killed: list[int] = []
    over = threading.Event()
    before = children()

    def kill() -> None:
        wait = chance.random() * LIFE_S
        while not over.is_set():
            if pids := children() - before:
                time.sleep(wait)
                pid = min(pids)
                if pid in children():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            over.wait(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.long
def test_a_killed_worker_loses_and_doubles_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nimad.sync.round.TARGET_DELAYS_S", (0.0, 0.01, 0.02))
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    events: list[Event] = []
    follower = Follower(nimad.Settings(source=source, reader_python=Path("none")), threading.Event(), events.append)
    hits, number = 0, 0
    while hits < KILLS:
        live(source, number, chance)
        with killer(chance) as killed:
            done = follower.catch_up(thorough=number % 3 == 0)
        assert not done.left_alone, (seed, done)
        hits += len(killed)
        number += 1
    follower.catch_up(thorough=True, last=True)
    assert_same(source, target_of(source))
    assert not beside(target_of(source), ".wal").exists()
    assert sum(event.added for event in events if isinstance(event, CaughtUp)) <= 3 * number, seed


def test_a_killed_follower_is_followed_by_another(source: Path) -> None:
    """The supervisor itself goes: what it had noted, or had not, is found out again."""
    program = (
        "import sys, threading, nimad\n"
        "from pathlib import Path\n"
        "from nimad.sync.follower import Follower\n"
        "asked = nimad.Settings(source=Path(sys.argv[1]), reader_python=Path('none'))\n"
        "follower = Follower(asked, threading.Event(), lambda _: None)\n"
        "while True:\n    follower.catch_up(thorough=True)\n    print('.', flush=True)\n"
    )
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for number in range(3):
        with subprocess.Popen([sys.executable, "-c", program, str(source)], stdout=subprocess.PIPE) as life:
            assert life.stdout is not None
            life.stdout.readline()
            live(source, number, chance)
            time.sleep(chance.random() * 2)
            life.kill()
    events: list[Event] = []
    follower = Follower(nimad.Settings(source=source, reader_python=Path("none")), threading.Event(), events.append)
    deadline = time.monotonic() + 20
    while follower.catch_up(thorough=True).left_alone and time.monotonic() < deadline:
        time.sleep(0.05)  # the last worker of the one that was killed may be about to end
    follower.catch_up(thorough=True, last=True)
    assert_same(source, target_of(source))


@pytest.mark.sampled
@pytest.mark.parametrize("tear", ["short", "garbage", "zeros"])
def test_a_torn_log_costs_nothing(source: Path, tear: str) -> None:
    events: list[Event] = []
    follower = Follower(nimad.Settings(source=source, reader_python=Path("none")), threading.Event(), events.append)
    chance = random.Random(1)
    for number in range(3):
        live(source, number, chance)
        follower.catch_up()
    log = beside(target_of(source), ".wal")
    data = log.read_bytes()
    torn = {
        "short": data[: len(data) * 2 // 3],
        "garbage": data + b"\x07garbage" * 40,
        "zeros": data[:-900] + bytes(900),
    }
    status = log.stat()
    log.write_bytes(torn[tear])
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))
    live(source, 3, chance)
    done = follower.catch_up()
    if done.left_alone:  # one of another length may be another program's
        assert tear != "zeros"
        assert "move the log away yourself" in done.left_alone
        assert log.read_bytes() == torn[tear]
        log.unlink()
    follower.catch_up(thorough=True, last=True)
    assert_same(source, target_of(source))
    aside = list(source.parent.glob("graph.ladybug.wal.*"))
    assert len(aside) == len([event for event in events if isinstance(event, SetAside)])
