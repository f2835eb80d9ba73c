"""What is there already: a finished target, another file in its place, or an interrupted run to go on with."""

import os
from typing import Any

from nimad.errors import CannotWriteError
from nimad.migration import retry, state
from nimad.migration.child import Answer
from nimad.migration.context import TARGET_TABLES, Context
from nimad.migration.files import discard
from nimad.migration.publishing import in_the_way
from nimad.worker.job import Failure, Task
from nimad.worker.quarantine import entries


def finished(context: Context) -> str | None:
    """Why there is nothing to do, when the target is complete already.

    Raises `CannotWriteError` when something else stands at the final name and `--replace` was not given.
    """
    target = context.files.target
    if not os.path.lexists(target) or context.settings.replace:
        return None
    if not target.exists():
        raise in_the_way(target, "a symbolic link to nothing")
    earlier = state.read(context.files)
    mine = (
        earlier.get("phase") == "complete"
        and state.identity_of(earlier) == context.survey.identity
        and set(context.survey.tables) <= set(earlier.get("tables", ()))
    )
    answer = retry.quietly(context.workers, context.job(Task.COUNT, target=str(target), schema=None))
    if answer.failure is Failure.ENGINE:
        raise retry.error_of(answer)
    if answer.ok:
        return _complete(context, answer, earlier if mine else {})
    if mine and "lock" in answer.message.lower():
        return f"{target} is complete, and another program has it open"
    raise in_the_way(target, f"it cannot be opened as a finished migration: {answer.message}")


def _complete(context: Context, answer: Answer, earlier: dict[str, Any]) -> str:
    counted = {name: count["rows"] for name, count in answer.facts["counts"].items()}
    target, nodes = context.files.target, counted.get("MemoryNode", 0)
    published = earlier.get("published") or {}
    if published and all(counted.get(name, 0) >= rows for name, rows in published.items()):
        late = context.survey.nodes.rows - _accounted(context, counted, "memory_nodes")
        tail = f"; {late} memories reached the source since: make a new target with --replace" if late > 0 else ""
        return f"{target} is complete: {nodes} memories{tail}"
    if counted.get("MemoryNode") is not None and all(
        _accounted(context, counted, table) == extent.rows for table, extent in context.survey.tables.items()
    ):
        return f"{target} is complete: {nodes} memories"
    if "MemoryNode" not in counted:
        raise in_the_way(target, "it is a LadybugDB file without memories")
    differing = [
        f"{counted.get(TARGET_TABLES[table], 0)} of the source's {extent.rows} rows of {table}"
        for table, extent in context.survey.tables.items()
        if _accounted(context, counted, table) != extent.rows
    ]
    raise in_the_way(target, f"it holds {', '.join(differing)}")


def _accounted(context: Context, counted: dict[str, int], table: str) -> int:
    """Rows of the source that are in the target or in quarantine."""
    aside = sum(1 for e in entries(context.files.quarantine) if (e["table"], e["part"]) == (table, "row"))
    return counted.get(TARGET_TABLES[table], 0) + aside


def adopt(context: Context) -> None:
    """Take up what an interrupted run left, or begin anew. Raises when it was begun from another source."""
    files = context.files
    if context.settings.restart:
        discard(files.staging)
    if not files.staging.exists():
        _begin_anew(context)
        return
    earlier = state.identity_of(state.read(files))
    mine = context.survey.identity
    if earlier is not None and earlier != mine:
        what = "was replaced since" if earlier.path == mine.path else f"is not {earlier.path}"
        raise CannotWriteError(
            f"{files.staging} was begun from another source: {mine.path} {what}; "
            "go on with that source, or throw the unfinished file away with --restart"
        )
    answer = retry.attempt(context.workers, retry.same(context.job(Task.COUNT)), context.listener)
    context.note_counts(answer.facts["counts"])
    context.last_keys = {
        name: count["last"] for name, count in answer.facts["counts"].items() if count["last"] is not None
    }


def _begin_anew(context: Context) -> None:
    """No staging file: nothing that lies beside it belongs to this run."""
    files = context.files
    discard(files.staging)
    files.ledger.unlink(missing_ok=True)
    if files.quarantine.exists():
        files.quarantine.rename(_dated(context))


def _dated(context: Context) -> Any:
    backup = context.files.backup(context.state.started)
    return backup.with_name(backup.name + ".quarantine.jsonl")
