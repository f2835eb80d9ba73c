"""An agent writes to both sides while nimad migrates, follows, replaces and goes back: no side's last word is lost.

The order is random, from a seed that a failure names; it also tells the story of the agent's steps. `make faults` does
2,000 interleavings, `NIMAD_INTERLEAVINGS=100` as many. An interleaving is some steps of the agent, one act of nimad or
two, one of them perhaps killed, and a comparison of both sides that shares no code with nimad.
"""

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from support.agent.lives import Life, Rest, doubled, incomplete, told
from support.agent.reading import Side
from support.agent.steps import LAYERS
from support.agent.three_way import differing, expected, with_defaults
from support.memories import edge, make_memory, node, turn, vector
from support.services import service
from support.torture import Life as Run
from support.torture import target_of
from test_following_kills import killer
from test_kills import write_figures

import nimad
from nimad.sync.follower import Follower
from nimad.sync.result import SyncResult

SHORT = 2
LONG = int(os.environ.get("NIMAD_INTERLEAVINGS", "2000"))
#: Interleavings of one memory.
LIFE = 20
#: Steps of the agent before an act, at most.
STEPS = 4
TURNS, DIMENSION = 8, 4
#: Seconds, at most, to the SIGKILL of a command that takes about as long.
LATEST_KILL_S = 3.0
#: Seconds within which a look has to come through once nothing is in its way.
PATIENCE_S = 60.0
#: What nimad does, by how often.
ACTS = {
    "follow": 5,
    "follow_killed": 4,
    "look_quickly": 2,
    "migrate_again": 3,
    "migrate_again_killed": 2,
    "serve": 2,
    "serve_killed": 1,
    "follow_locked_out": 1,
    "replace": 1,
    "replace_killed": 1,
    "go_back": 1,
    "go_back_killed": 1,
}
NO_READER = ("--reader-python", "none")


def memory(folder: Path) -> Path:
    """A memory of a few turns, as release 3.1 leaves it."""
    firsts = range(1, 3 * TURNS, 3)
    return make_memory(
        folder / "graph.sqlite",
        nodes=[
            node(first + place, layer=layer, turn_id=f"old_{first}", embedding=vector(first, place, 1, 2), who="owner")
            for first in firsts
            for place, layer in enumerate(LAYERS)
        ],
        edges=[edge(first, first, first + 1) for first in firsts],
        turns=[turn(first, first, first + 1, first + 2, turn_id=f"old_{first}") for first in firsts],
    )


class Interleaving:
    """One memory from its migration on."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir()
        self.chance = random.Random(seed)
        self.source = memory(folder)
        self.target = target_of(self.source)
        self.acts: Counter[str] = Counter()
        self.memories = 0
        run(self.source, "migrate", *NO_READER)
        self.life = Life(self.source, self.target, self.chance, DIMENSION)
        self.last = self.life.rest()
        self.life.settled(self.last)

    def play(self, times: int) -> None:
        try:
            for _ in range(times):
                (act,) = self.chance.choices([*ACTS], [*ACTS.values()])
                self.interleave(act)
        finally:
            self.life.end()

    def interleave(self, act: str) -> None:
        self.life.live(self.last, self.chance.randint(1, STEPS))
        before = self.life.rest()
        self.life.story.append(f"-- {act}")
        getattr(self, act)(before)
        self.acts[act] += 1

    # Acts of nimad, each up to its rest

    def follow(self, before: Rest) -> None:
        self._complete()
        self._settle(before)

    def follow_killed(self, before: Rest) -> None:
        with killer(self.chance):
            self._follower().catch_up(thorough=self.chance.random() < 0.5)
        self.follow(before)

    def look_quickly(self, before: Rest) -> None:
        """A look that does not see every change: what it brings is right, and the next whole one brings the rest."""
        self._follower().catch_up()
        after = self.life.rest()
        assert not doubled(after), doubled(after)
        self._untouched(before.here, after.here)
        self.follow(before)

    def migrate_again(self, before: Rest) -> None:
        run(self.source, "migrate", *NO_READER)
        self._settle(before)

    def migrate_again_killed(self, before: Rest) -> None:
        self._killed("migrate", *NO_READER)
        self.migrate_again(before)

    def serve(self, before: Rest) -> None:
        """The agent goes on while the service follows."""
        with service(self.source.parent, "--after", "follow", watchdog_s=30.0) as running:
            running.wait_for(lambda: bool(running.statuses))
            self._live_beside(before)
            status = running.stop()
            assert status in (0, 75), f"ended with {status}:\n{running.log}"
        self._complete()
        self._settle(before, beside=True)

    def serve_killed(self, before: Rest) -> None:
        with service(self.source.parent, "--after", "follow", watchdog_s=30.0) as running:
            self._live_beside(before)
            running.process.kill()
            running.process.wait()
        self._complete()
        self._settle(before, beside=True)

    def follow_locked_out(self, before: Rest) -> None:
        self.life.agent.hold()
        self._follower().catch_up(thorough=True)
        self.life.agent.release()
        self.follow(before)

    def replace(self, before: Rest) -> None:
        run(self.source, "migrate", "--replace", *NO_READER)
        self._settle(before)

    def replace_killed(self, before: Rest) -> None:
        self._killed("migrate", "--replace", *NO_READER)
        self.migrate_again(before) if self.chance.random() < 0.5 else self.replace(before)

    def go_back(self, before: Rest) -> None:
        """Back to SQLite, which has everything then, and forth again."""
        run(self.source, "rollback", "--apply", codes=(0, 1))
        self._forth_again(before)

    def go_back_killed(self, before: Rest) -> None:
        self._killed("rollback", "--apply")
        if self.target.exists():
            run(self.source, "rollback", "--apply", codes=(0, 1))
        self._forth_again(before)

    def _forth_again(self, before: Rest) -> None:
        assert not self.target.exists()
        here = self.life.here()
        missing = [key for key in before.there.memories if key not in here.memories and key not in before.here.memories]
        wrong = [f"{key} did not come back" for key in missing if key not in self.life.bases]
        for key, now in here.memories.items():
            base, ours, theirs = (side.get(key) for side in (self._base(), before.here.memories, before.there.memories))
            # Of what both sides changed, SQLite's may stay, column by column; and what only left SQLite may come back.
            wanted, is_now = expected(base, ours, theirs), with_defaults(now)
            fitting = [wanted, with_defaults(ours), *([theirs] if ours is None else [])]
            if (was := with_defaults(base)) and (mine := with_defaults(ours)) and wanted and is_now:
                stayed = [name for name in differing(was, mine) if is_now[name] == mine[name]]
                # Nor is it carried back what both sides had changed before: nothing tells which is newer.
                stayed += [name for name in self.life.undecided.get(key, ()) if is_now[name] == mine[name]]
                fitting.append({**wanted, **{name: mine[name] for name in stayed}})
            if "" not in (found := [told(each, is_now) for each in fitting]):
                wrong.append(f"{key} came back as neither side had it: {found[0]}")
        assert not wrong, "\n".join([*wrong, *self.life.story])
        run(self.source, "resume")
        run(self.source, "migrate", *NO_READER)
        after = self.life.rest()
        self.life.settled(after)
        there = Rest(after.here, Side(after.here.memories))
        self.life.check(there, after)
        self._rested(after)

    # How they are done

    def _base(self) -> dict[Any, Any]:
        return {key: bases[0] for key, bases in self.life.bases.items()}

    def _settle(self, before: Rest, *, beside: bool = False) -> None:
        """Compare at a rest after nimad has looked at every row. `beside`: the agent went on meanwhile."""
        written = self.life.written
        after = self.life.rest()
        if not beside:
            self._untouched(before.here, after.here)
        self.life.check(before, after, written)
        self.life.settled(after)
        self._rested(after)

    def _rested(self, after: Rest) -> None:
        assert not incomplete(after), "\n".join([*incomplete(after), *self.life.story])
        self.memories += len(after.there.memories)
        self.last = after

    def _untouched(self, before: Side, after: Side) -> None:
        assert after == before, "SQLite was written to by another than its agent"

    def _live_beside(self, before: Rest) -> None:
        self.life.unsettled(before.here)
        for _ in range(3):
            self.life.live(before, 1, dying=0.0)
            time.sleep(self.chance.random() * 0.5)
            self.life.unsettled(self.life.here())

    def _follower(self) -> Follower:
        return Follower(nimad.Settings(source=self.source, reader_python=Path("none")), threading.Event(), _ignored)

    def _complete(self) -> None:
        """Follow until a look at every row comes through."""
        deadline = time.monotonic() + PATIENCE_S
        done = SyncResult(left_alone="not tried")
        while done.left_alone:
            assert time.monotonic() < deadline, "\n".join([done.left_alone, *self.life.story])
            done = self._follower().catch_up(thorough=True)

    def _killed(self, *words: str) -> None:
        """A command that is killed at some instant of it, or ends before."""
        with Run(self.source, script=_command(self.source, *words)) as life:
            time.sleep(self.chance.random() * LATEST_KILL_S)
            life.kill()
        _wait_for_orphans(life.pid)


def _ignored(_: object) -> None:
    pass


def _command(source: Path, *words: str) -> str:
    command = [words[0], "--source", str(source), *words[1:]]
    return f"import sys; sys.argv = ['nimad', *{command!r}]; from nimad.cli import main; main()"


def run(source: Path, *words: str, codes: tuple[int, ...] = (0,)) -> None:
    with Run(source, script=_command(source, *words)) as life:
        assert life.wait() in codes, f"{words}: {life.said}"


def _wait_for_orphans(parent: int) -> None:
    """Workers of a supervisor that was killed end by themselves."""
    deadline = time.monotonic() + PATIENCE_S
    while any(str(parent).encode() in _words(folder) for folder in Path("/proc").iterdir() if folder.name.isdigit()):
        assert time.monotonic() < deadline, "a worker outlives its supervisor"
        time.sleep(0.05)


def _words(folder: Path) -> list[bytes]:
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return words if b"nimad.worker" in words else []


@dataclass(frozen=True)
class Played:
    """What one life came to."""

    acts: Counter[str]
    steps: Counter[str]
    memories: int  # compared at its rests


def played(folder: Path, times: int, seed: int) -> Played:
    """So many interleavings of one memory. A failure names its seed."""
    interleaving = Interleaving(folder / f"{seed}", seed)
    try:
        interleaving.play(times)
    except BaseException as error:
        error.add_note(f"seed {seed}, {times} interleavings")
        raise
    return Played(interleaving.acts, interleaving.life.steps, interleaving.memories)


def test_neither_side_loses_what_it_wrote_last(tmp_path: Path) -> None:
    played(tmp_path, SHORT, random.randrange(2**32))


@pytest.mark.long
def test_neither_side_loses_what_it_wrote_last_in_many_lives(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    lengths = [min(LIFE, LONG - first) for first in range(0, LONG, LIFE)]
    seeds = range(seed, seed + len(lengths))
    # In processes of their own: a kill is meant for the children of one life.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        lives = list(pool.map(played, repeat(tmp_path), lengths, seeds))
    figures = {
        "first seed": seed,
        "lives": len(lives),
        "interleavings": sum(life.acts.total() for life in lives),
        "memories compared": sum(life.memories for life in lives),
        "acts": sum((life.acts for life in lives), Counter()),
        "steps": sum((life.steps for life in lives), Counter()),
    }
    write_figures("interleavings", figures)
