"""The agent's own interpreter: whether it opens what is about to be published, and counts the same in it."""

from nimad.errors import EngineError
from nimad.migration.context import Context
from nimad.migration.engines import Engine, ways_out
from nimad.migration.events import ReaderChecked
from nimad.migration.machine import space_taken

#: Tries for a reader that ends without an answer, as when memory is short for a moment.
_TRIES = 2


def check(context: Context) -> None:
    """Have every reader open the staging file and count it. Raises `EngineError` when one cannot."""
    for reader in context.choice.readers:
        counts = _count(context, reader)
        expected = {table: rows for table, rows in context.counted.items() if table in counts}
        if counts != expected:
            raise EngineError(
                f"the reader {reader} counts {counts} where {context.engine_name()} counts {expected}; nothing was "
                "published. Begin again with --restart"
            )
        context.listener(ReaderChecked(str(reader), counts.get("MemoryNode", 0)))


def _count(context: Context, reader: Engine) -> dict[str, int]:
    staging, plan = context.files.staging, context.plan
    taken = space_taken(staging)
    limits = [str(plan.pool_for(taken, context.pool_bytes)), str(plan.address_space_bytes)]
    problem = ""
    for _ in range(_TRIES):
        answers, ended = reader.interpreter.ask(
            context.workers.stop, context.patience.limit_s(taken), "count", reader.module, str(staging), *limits
        )
        if answers and "counts" in answers[0]:
            return dict(answers[0]["counts"])
        problem = answers[0]["problem"] if answers else ended
    raise EngineError(
        f"the reader {reader} cannot open {staging} ({problem}), so nothing was published; what was written is kept. "
        f"{ways_out(reader, context.state.engine.get('storage_version', 0))}"
    )
