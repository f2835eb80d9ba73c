"""The agent lives on for 2,000 turns while the service follows, and stores half of them on both sides itself.

`make faults` does all of them, `NIMAD_TURNS=100` as many. A turn has arrived when a process that nimad started after
writing it has found it in the target, as the state file says; what is in the target is compared at the end.
"""

import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.agent.lives import FIRST_MOMENT, PACE_MS, Life, Rest
from support.agent.reading import read_ladybug
from support.agent.steps import BOTH, LAYERS, SQLITE, Prune, Recall, Store
from support.environments import OURS, opened
from support.services import Service, service
from support.torture import last_ids, run_to_the_end, small_memory, state_of, target_of
from test_kills import write_figures

from nimad.sync import live_compaction

SHORT = 2
LONG = int(os.environ.get("NIMAD_TURNS", "2000"))
#: Seconds until a turn that only SQLite got is in the target.
ARRIVES_WITHIN_S = 1.5
#: Seconds after which a turn is not waited for any longer.
PATIENCE_S = 60.0
#: The file may be so many times as large as a copy without holes, once the service had so many seconds to make one.
COMPACT, RESTS_WITHIN_S = 1.3, 300.0
NODES, DIMENSION = 600, 32
#: Turns between two prunings, and between two rests of so many seconds: who talks to an agent reads what it answers.
PRUNES_EACH = 10
RESTS_EACH, REST_S = 30, live_compaction.QUIET_S + 3.0
WORDS = "what was said, what was thought and what was answered "


@dataclass
class Living:
    """What became of the turns."""

    life: Life
    target: Path
    running: Service
    waited_s: list[float] = field(default_factory=list)  # from SQLite's commit, per turn that only SQLite got
    locked_out: int = 0

    def turn(self, number: int, known: Rest) -> None:
        """One turn, a recall with it, and now and then a pruning."""
        moment, chance = FIRST_MOMENT + number * PACE_MS, self.life.chance
        texts = tuple(f"{layer} {number}: {WORDS * chance.randrange(5, 80)}" for layer in LAYERS)
        side = BOTH if number % 2 else SQLITE
        store = Store(f"turn_{number}", moment, texts, ("question", "thought", "answer"), side=side)  # type: ignore[arg-type]
        self._take(store)
        began, last = time.monotonic(), last_ids(self.life.source)["memory_nodes"]
        self.running.wait_for(lambda: self._has_arrived(last), f"turn {number}")
        self.waited_s.append(time.monotonic() - began)
        there = sorted(key for key in known.there.memories if key[0])
        self._take(Recall(tuple(chance.sample(there, 3)), moment, notes_access=number % 3 == 0))
        if number % PRUNES_EACH == 0:
            self._take(Prune((chance.choice(there),)))

    def _take(self, step: Store | Recall | Prune) -> None:
        before = sum(count for name, count in self.life.steps.items() if "locked out" in name)
        self.life.take(step)
        self.locked_out += sum(count for name, count in self.life.steps.items() if "locked out" in name) - before

    def _has_arrived(self, last: int) -> bool:
        bounds = state_of(self.target).get("bounds", {})
        return bool(bounds.get("memory_nodes", -1) >= last)


def compact_bytes(target: Path, folder: Path) -> int:
    """The size of a copy without holes, made by the engine's own export."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    whole, compact = Path(shutil.copy(target, folder / "whole.ladybug")), folder / "compact.ladybug"
    with opened(OURS, whole, read_only=False) as ask:
        ask("DROP TABLE derived_from")  # which is empty, and whose two pairs of ends the export refuses
        ask(f"EXPORT DATABASE '{folder}/export' (format='parquet')")
    with opened(OURS, compact, read_only=False) as ask:
        ask(f"IMPORT DATABASE '{folder}/export'")
    size = compact.stat().st_size
    shutil.rmtree(folder)
    return size


def rest(target: Path, folder: Path) -> None:
    """Wait until the service has made the file small again, for as long as it may take."""
    compact, deadline = compact_bytes(target, folder), time.monotonic() + RESTS_WITHIN_S
    while target.stat().st_size > max(live_compaction.SMALL_FILE, COMPACT * compact) and time.monotonic() < deadline:
        time.sleep(1.0)


def lived(folder: Path, turns: int, seed: int, *, rests: bool) -> dict[str, Any]:
    """Live so many turns; returns the figures. `rests`: the service has time to make the file small at the end."""
    source = small_memory(folder / "graph.sqlite", nodes=NODES, dimension=DIMENSION)
    target = target_of(source)
    run_to_the_end(source, "--reader-python", "none")
    life = Life(source, target, random.Random(seed), DIMENSION)
    first = life.rest()
    life.settled(first)
    with service(folder, "--after", "follow", watchdog_s=60.0) as running:
        living = Living(life, target, running)
        running.wait_for_status(r"(?i)follow|up to date|memories")
        for number in range(1, turns + 1):
            living.turn(number, first)
            if number % RESTS_EACH == 0:
                time.sleep(REST_S)
        largest = target.stat().st_size
        if rests:
            rest(target, folder)
        assert running.stop() in (0, 75)
    life.end()
    life.unsettled(life.here())
    last = Rest(life.here(), read_ladybug(target))
    life.check(first, last, life.written)
    assert set(last.here.memories) <= set(last.there.memories)
    waited = sorted(living.waited_s)
    return {
        "seed": seed,
        "turns": turns,
        "locked out of the target": living.locked_out,
        "memories compared": len(last.there.memories),
        "slowest arrival, s": round(waited[-1], 2),
        "95 of 100 arrive within, s": round(waited[len(waited) * 95 // 100], 2),
        "median arrival, s": round(waited[len(waited) // 2], 2),
        "bytes after the last turn": largest,
        "bytes": target.stat().st_size,
        "compact bytes": compact_bytes(target, folder),
    }


def test_a_short_life_is_all_there(tmp_path: Path) -> None:
    lived(tmp_path, SHORT, random.randrange(2**32), rests=False)


@pytest.mark.long
def test_a_life_of_two_thousand_turns(tmp_path: Path) -> None:
    figures = lived(tmp_path, LONG, random.randrange(2**32), rests=True)
    write_figures("life", figures)
    assert figures["slowest arrival, s"] <= ARRIVES_WITHIN_S, figures
    assert figures["bytes"] <= COMPACT * figures["compact bytes"], figures
