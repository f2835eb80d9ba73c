"""A life of the agent with nimad beside it, and what has to hold at every rest of it.

A rest is when neither writes. `bases` of a memory are what nimad may last have copied of it: one state after it looked
at every row, and several where it was disturbed or looked at some rows only.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from support.agent.driver import Agent, DiedError
from support.agent.reading import Memory, Side, overlaid, read_ladybug, read_sqlite
from support.agent.steps import (
    BOTH,
    LADYBUG,
    LAYERS,
    SQLITE,
    Answer,
    Backfill,
    Capture,
    Dream,
    Edit,
    Forget,
    Key,
    Merge,
    Prune,
    Recall,
    Step,
    Store,
)
from support.agent.three_way import differing, expected, with_defaults

FIRST_MOMENT = 1_790_000_000_000
#: Milliseconds between two steps.
PACE_MS = 1_000
#: Turns that leave SQLite in one life: more rows than ten of a small memory, and nimad removes nothing.
MAY_FORGET = 3
#: Statements of a step before which it may be killed.
LONGEST_STEP = 18


@dataclass
class Rest:
    """Both sides while neither writes."""

    here: Side
    there: Side


@dataclass
class Life:
    """One agent over its two files, its steps drawn at random."""

    source: Path
    target: Path
    chance: random.Random
    dimension: int
    bases: dict[Key, list[Memory | None]] = field(default_factory=dict)
    undecided: dict[Key, set[str]] = field(default_factory=dict)  # columns that both sides changed, and differ
    written: list[Memory] = field(default_factory=list)  # to LadybugDB, since the last rest
    steps: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    _moment: int = FIRST_MOMENT
    _forgotten: int = 0

    def __post_init__(self) -> None:
        self._agent = Agent(self.source, self.target)

    @property
    def agent(self) -> Agent:
        return self._agent

    def end(self) -> None:
        self._agent.kill()

    def rest(self) -> Rest:
        """Both sides as they are; what the agent writes from here on is noted."""
        self.written = []
        return Rest(read_sqlite(self.source), read_ladybug(self.target))

    def here(self) -> Side:
        return read_sqlite(self.source)

    # What the agent does

    def live(self, rest: Rest, times: int, *, dying: float = 0.15) -> None:
        """Do some steps about memories of the last rest. `dying`: the probability that a step ends in a SIGKILL."""
        for _ in range(times):
            self.take(self._drawn(rest), dies=self.chance.random() < dying)

    def take(self, step: Step, *, dies: bool = False) -> None:
        die_after = self.chance.randrange(LONGEST_STEP) if dies else None
        name = type(step).__name__
        try:
            answer = self._agent.do(step, die_after=die_after)
        except DiedError:
            self.steps[f"{name}, killed"] += 1
            self.story.append(f"{step!s:.200} killed after {die_after} statements")
            return
        self._note(answer)
        self.steps[name if answer.ok else f"{name}, {'locked out' if answer.lost_the_race else 'failed'}"] += 1
        self.story.append(f"{step!s:.200} {answer.error:.80}")
        assert answer.ok or answer.lost_the_race or isinstance(step, Store), answer.error

    def _note(self, answer: Answer) -> None:
        if answer.ok and isinstance(answer.value, list):
            self.written += [row for row in answer.value if isinstance(row, dict)]

    def _drawn(self, rest: Rest) -> Step:
        self._moment += PACE_MS
        there = sorted(key for key in rest.there.memories if key[0])
        here = sorted(key for key in rest.here.memories if key[0])
        both = sorted(set(here) & set(there))
        some = tuple(self.chance.sample(there, min(len(there), 3)))
        one = self.chance.choice(both)
        kinds: list[tuple[int, Step]] = [
            (6, self._turn(BOTH)),
            (3, self._turn(SQLITE)),
            (2, self._turn(LADYBUG)),
            (5, Recall(some, self._moment, notes_access=self.chance.random() < 0.5)),
            (2, Recall((one,), self._moment, side=SQLITE)),
            (2, Prune(some[:1])),
            (1, Prune((one,), side=SQLITE)),
            (1, Merge(some[0], some[1:] or some, self._moment)),
            (1, Capture(f"result {self._moment}", self._moment)),
            (1, Dream(f"night {self._moment % 3}", side=LADYBUG)),
            (1, Backfill(self.dimension)),
            (2, Edit(one, f"edited {self._moment}")),
        ]
        if self._forgotten < MAY_FORGET:
            kinds.append((1, Forget(tuple((one[0], layer) for layer in LAYERS))))
        (step,) = self.chance.choices([step for _, step in kinds], [weight for weight, _ in kinds])
        self._forgotten += isinstance(step, Forget)
        return step

    def _turn(self, side: str) -> Store:
        long = self.chance.random() < 0.3
        texts = tuple(f"{layer} of {self._moment} " * (200 if long else 1) for layer in LAYERS)
        return Store(f"turn_{self._moment}", self._moment, texts, ("s" * (600 if long else 6), "t", "a"), side=side)  # type: ignore[arg-type]

    # What has to hold

    def settled(self, rest: Rest) -> None:
        """Everything has been copied as SQLite has it now."""
        for key, memory in rest.here.memories.items():
            here, there = with_defaults(memory), rest.there.memories.get(key)
            unequal = set(differing(here, there)) if here is not None and there is not None else set()
            undecided = self.undecided.pop(key, set())
            for base in map(with_defaults, self.bases.get(key, [None])):
                undecided |= unequal if base is None or here is None else set(differing(base, here))
            self.undecided[key] = undecided & unequal
        self.bases = {key: [memory] for key, memory in rest.here.memories.items()}

    def unsettled(self, here: Side) -> None:
        """Any row may have been copied as SQLite has it now, or not."""
        for key, memory in here.memories.items():
            self.bases.setdefault(key, [None]).append(memory)

    def check(self, before: Rest, after: Rest, written: Iterable[Memory] = ()) -> None:
        """Fail unless LadybugDB has what both sides wrote last. `written`: to it, by the agent, between the two."""
        there = overlaid(before.there, written)
        names = set(after.here.memories) | set(there.memories) | set(self.bases)
        wrong = [line for key in sorted(names) for line in self._wrong(key, after, there.memories.get(key))]
        wrong += doubled(after) + incomplete(after) + hidden(after, there)
        wrong += [f"{dream} is gone" for dream in sorted(before.there.dreams - after.there.dreams)]
        assert not wrong, "\n".join([*wrong, "after:", *self.story])

    def _wrong(self, key: Key, after: Rest, there: Memory | None) -> list[str]:
        here, now = after.here.memories.get(key), after.there.memories.get(key)
        fitting: list[Memory | None] = [expected(base, here, there) for base in self.bases.get(key, [None])]
        if here is None and there is not None and key in self.bases:
            fitting.append(there)  # nothing is removed where a look was not whole
        found = [told(wanted, now) for wanted in fitting]
        return [] if "" in found else [f"{key}: {found[0]}"]


def hidden(rest: Rest, written: Side) -> list[str]:
    """Memories that no reader sees, although neither side pruned them. `written`: what the agent wrote to LadybugDB."""
    sides = (written.memories, rest.here.memories)
    return [
        f"{key} is hidden: is_ghost = {memory['is_ghost']}"
        for key, memory in rest.there.memories.items()
        if memory["is_ghost"] is not False and not any(side.get(key, {}).get("is_ghost") for side in sides)
    ]


def doubled(rest: Rest) -> list[str]:
    """What LadybugDB has more often than the side that has it."""
    there, here = rest.there, rest.here
    found = [
        *(f"{key} is there {n} times" for key, n in there.copies.items() if n > max(1, here.copies[key])),
        *(f"turn {name} is there {n} times" for name, n in there.turns.items() if n > 1),
        *(f"edge {edge} is there {n} times" for edge, n in there.edges.items() if n > max(1, here.edges[edge])),
        *(f"link {link} is there {n} times" for link, n in there.links.items() if n > 1),
    ]
    return sorted(found)


def incomplete(rest: Rest) -> list[str]:
    """What of SQLite's LadybugDB lacks, among what hangs on memories that it has."""
    there, here = rest.there, rest.here
    return [
        *(f"turn {name} is missing" for name in here.turns if name not in there.turns),
        *(f"edge {edge} is missing" for edge in here.edges if edge not in there.edges),
        *(f"link {link} is missing" for link in here.links if link not in there.links),
    ]


def told(wanted: Memory | None, now: Memory | None) -> str:
    """Why they differ; empty where they do not."""
    if wanted is None or now is None:
        return "" if wanted is now else ("is there" if wanted is None else "is not there")
    return ", ".join(f"{name} {now[name]!r:.60} for {wanted[name]!r:.60}" for name in differing(wanted, now))
