"""Timing one question for several words, several times over; and time that is bounded."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: How often each word is asked for: the first time, what is read may have to come from the disk.
ROUNDS = 3


@dataclass(frozen=True)
class Timed:
    """What asking for one word took: the median of its rounds, in seconds. `hits`: of the last round."""

    hits: int
    seconds: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        return {"hits": self.hits, "seconds": round(self.seconds, 6), "rounds": self.rounds}


def timed(ask: Callable[[str], int], words: Sequence[str], limit_s: float) -> list[Timed]:
    """Ask for each word, round by round, until the time is over; as many words as were asked for at all, in order.

    Both sides are timed by this.
    """
    deadline = time.monotonic() + limit_s
    seconds: list[list[float]] = [[] for _ in words]
    hits = [0] * len(words)
    for _ in range(ROUNDS):
        for place, word in enumerate(words):
            if time.monotonic() > deadline:
                break
            began = time.perf_counter()
            hits[place] = ask(word)
            seconds[place].append(time.perf_counter() - began)
    each = zip(hits, seconds, strict=True)
    return [Timed(found, statistics.median(took), len(took)) for found, took in each if took]


@contextmanager
def within(seconds: float) -> Iterator[threading.Event]:
    """An event that is set once the time is over."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
