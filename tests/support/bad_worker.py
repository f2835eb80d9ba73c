"""`bad_worker.py PARENT`: the worker, but rows whose text begins with `poison:` do to it what they say.

This stands in for an engine that dies of certain rows. The product has no hook for it: a test names this file as the
worker's program. Everything else is the real worker with the real engine.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from nimad.source.batch import Batch
from nimad.source.schema import ValueKind
from nimad.target import copy_rows
from nimad.target.database import Database
from nimad.target.destination import Destination
from nimad.worker import __main__ as worker
from nimad.worker import lifetime

POISON = "poison:"
#: The stream of this worker's one answer, once it is settled.
ANSWER: list[Any] = []


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    while True:
        time.sleep(1)


def hang_whatever_comes() -> None:
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
    hang()


def fail(message: str) -> None:
    raise RuntimeError(message)


def run_out_of_memory() -> None:
    raise MemoryError


def half_answer() -> None:
    ANSWER[0].write('{"ok": true, "seco')
    ANSWER[0].flush()
    os._exit(0)


def by_signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


DOES: dict[str, Callable[[], None]] = {
    "segv": crash,
    "bus": by_signal(signal.SIGBUS),
    "ill": by_signal(signal.SIGILL),
    "fpe": by_signal(signal.SIGFPE),
    "abort": os.abort,
    "kill": by_signal(signal.SIGKILL),
    "term": by_signal(signal.SIGUSR1),
    "exit": lambda: os._exit(3),
    "silent": lambda: os._exit(0),
    "half": half_answer,
    "hang": hang,
    "stubborn": hang_whatever_comes,
    "error": lambda: fail("Runtime exception: something nobody has a rule for"),
    "conversion": lambda: fail("Conversion exception: Cast failed. This value cannot be."),
    "memory": run_out_of_memory,
}


def look_for_poison(batch: Batch) -> None:
    for kind, values in zip(batch.kinds, batch.columns, strict=True):
        if kind is ValueKind.STRING:
            for value in values:
                if value and value.startswith(POISON):
                    DOES[value.removeprefix(POISON).split()[0]]()


def main() -> int:
    copy, settle = copy_rows._copy, lifetime.settle

    def poisonous(database: Database, into: Destination, rows: Batch) -> int:
        look_for_poison(rows)
        return copy(database, into, rows)

    def remember(parent: int, priority: str) -> Any:
        ANSWER.append(settle(parent, priority))
        return ANSWER[0]

    copy_rows._copy = poisonous
    vars(worker)["settle"] = remember
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
