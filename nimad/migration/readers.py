"""The agent's own interpreter: whether it opens what is about to be published, and counts the same in it."""

import threading
from pathlib import Path

from nimad.errors import EngineError
from nimad.migration.context import Context
from nimad.migration.engines import Engine, ways_out
from nimad.migration.events import ReaderChecked
from nimad.migration.machine import space_taken

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


def _count(context: Context, reader: Engine, staging: Path) -> dict[str, int]:
    taken = space_taken(staging)
    limits = context.plan.pool_for(taken, context.pool_bytes), context.plan.address_space_bytes
    counts, problem = count(reader, staging, limits, context.workers.stop, context.patience.limit_s(taken))
    if counts is not None:
        return counts
    raise EngineError(
        f"the reader {reader} cannot open {staging} ({problem}), so nothing was published; what was written is kept. "
        f"{ways_out(reader, context.state.engine.get('storage_version', 0))}"
    )


def count(
    reader: Engine, path: Path, limits: tuple[int, int], stop: threading.Event, limit_s: float
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
