"""Timing: how long the same questions take before and after, asked of SQLite and of the target now."""

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.errors import NimadError, StoppedError
from nimad.host.machine import space_taken
from nimad.host.stopwatch import timed, within
from nimad.source import search
from nimad.source.sqlite_file import SourceFile
from nimad.supervisor.plan import limits_for
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.worker.protocol import Job, Task

#: Seconds that either side may be asked for, and after which a worker that does not come back is ended.
SIDE_S, WORKER_S = 10.0, 60.0


@dataclass(frozen=True)
class Side:
    """One side's times, in seconds, each the median of its rounds. `why_not`: where it could not be asked."""

    way: str  # FTS5, LIKE or CONTAINS
    words: Sequence[Mapping[str, Any]] = ()  # hits, seconds, rounds; in the order of the words
    open_s: float = 0.0
    why_not: str = ""

    @property
    def median_s(self) -> float | None:
        """Of all words."""
        return statistics.median(word["seconds"] for word in self.words) if self.words else None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "words": [dict(word) for word in self.words], "median_s": self.median_s}


@dataclass(frozen=True)
class Compared:
    """The same words asked of both sides. The words themselves are a memory's, and are not kept."""

    before: Side
    after: Side

    def to_json(self) -> dict[str, Any]:
        return {"before": self.before.to_json(), "after": self.after.to_json()}


def compare(source: Path, target: Path, limit_s: float = SIDE_S) -> Compared:
    """Ask both for the newest memories that have each of some words. Takes at most about twice `limit_s` seconds."""
    try:
        words, before = _ask_source(source, limit_s)
    except StoppedError:
        words, before = (), Side("", why_not=f"one search of {source} alone took longer than {limit_s:.0f} s")
    except (NimadError, OSError) as error:
        words, before = (), Side("", why_not=str(error))
    if not words:
        why = before.why_not or f"{source} has no words to ask for"
        return Compared(Side(before.way, why_not=why), Side("CONTAINS", why_not=why))
    return Compared(before, _ask_target(target, words, limit_s))


def _ask_source(source: Path, limit_s: float) -> tuple[Sequence[str], Side]:
    began = time.perf_counter()

    def ask(connection: Any) -> tuple[Sequence[str], Side]:
        opened = time.perf_counter() - began
        if not search.can_be_asked(connection):
            return (), Side("", why_not=f"{source} lacks the columns that are searched")
        words = search.words_of(connection)
        way, one = search.way_of(connection)
        times = [each.to_json() for each in timed(one, words, limit_s)]
        return words, Side(way, times, round(opened, 6))

    with within(limit_s * 2) as deadline:  # choosing the words, and one query that does not end
        return SourceFile(source, deadline).read(ask)


def _ask_target(target: Path, words: Sequence[str], limit_s: float) -> Side:
    job = Job(task=Task.TIME, target=str(target), words=words, limit=search.HITS, limit_s=limit_s)
    try:
        target.stat()  # raises, with its name, where there is none
        job = job.within(limits_for(space_taken(target)))
        with WorkerPool(threading.Event(), launch=Launch()) as workers:
            answer = workers.do(job, limit_s=limit_s + WORKER_S, last=True)
    except (NimadError, OSError) as error:
        return Side("CONTAINS", why_not=str(error))
    if not answer.ok:
        return Side("CONTAINS", why_not=answer.message)
    return Side("CONTAINS", answer.facts["words"], answer.facts["open_s"])
