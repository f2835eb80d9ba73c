"""The reader check: each of the agent's interpreters opens and counts the file before it is published."""

import threading
from pathlib import Path

from nimad.engines.selection import FoundEngine, ways_out
from nimad.errors import EngineError
from nimad.events.run import ReaderChecked
from nimad.host.machine import space_taken
from nimad.migration.context import Context

#: Tries for a reader that ends without an answer, as when memory is short for a moment.
_TRIES = 2


def check(context: Context, path: Path | None = None) -> None:
    """Have every reader open the staging file, or another, and count it. Raises `EngineError` when one cannot."""
    for reader in context.choice.readers:
        counts = _count(context, reader, path or context.files.staging)
        expected = {table: rows for table, rows in context.counted.items() if table in counts}
        if counts != expected:
            raise EngineError(
                f"the reader {reader} counts {counts} where {context.engine_name()} counts {expected}; nothing was "
                "published. Begin again with --restart"
            )
        context.listener(ReaderChecked(str(reader), counts.get("MemoryNode", 0)))


def _count(context: Context, reader: FoundEngine, staging: Path) -> dict[str, int]:
    taken = space_taken(staging)
    limits = context.plan.pool_for(taken, context.pool_bytes), context.plan.address_space_bytes
    counts, problem = count(reader, staging, limits, context.workers.stop, context.timeout.limit_s(taken))
    if counts is not None:
        return counts
    raise EngineError(
        f"the reader {reader} cannot open {staging} ({problem}), so nothing was published; what was written is kept. "
        f"{ways_out(reader, context.state.engine.get('storage_version', 0))}"
    )


def count(
    reader: FoundEngine, path: Path, limits: tuple[int, int], stop: threading.Event, limit_s: float
) -> tuple[dict[str, int] | None, str]:
    """What a reader counts in a file, or why it cannot. `limits`: bytes of pool and of address space."""
    problem = ""
    for _ in range(_TRIES):
        words = ("count", reader.module, str(path), *map(str, limits))
        answers, ended = reader.interpreter.ask(stop, limit_s, *words)
        if answers and isinstance(answers[0].get("counts"), dict):
            return answers[0]["counts"], ""
        problem = str(answers[0].get("problem")) if answers else ended
    return None, problem
