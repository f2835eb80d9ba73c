"""Preparation: survey of the source, plan, and check of the engine."""

import time
from collections.abc import Mapping
from typing import Any

from nimad.config import Settings
from nimad.engines.packages import least_integer, unloadable
from nimad.engines.selection import Choice
from nimad.errors import (
    EngineError,
    StoppedError,
    UsageError,
)
from nimad.events import run
from nimad.events.run import Listener
from nimad.migration import (
    batch_retry,
    large_pages,
    salvage,
    unfinished,
)
from nimad.migration.context import Context
from nimad.source.schema import NODES
from nimad.source.survey import Survey
from nimad.state.paths import Files
from nimad.state.target_state import State
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind
from nimad.supervisor.plan import make_plan
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Job, Task


def prepare(
    settings: Settings, choice: Choice, files: Files, copy: salvage.SalvageDir, workers: WorkerPool, listener: Listener
) -> Context:
    """Look at the source, make the plan, and see whether the engine is there."""
    began = time.monotonic()
    listener(run.Analyzing(str(settings.source)))
    memory = salvage.readable(settings, copy, listener, workers.stop)
    found = memory.survey
    if settings.start_offset > found.nodes.rows:
        raise UsageError(
            f"--start-offset {settings.start_offset} is past the end: the source has {found.nodes.rows} nodes; "
            "leave it out, a run goes on by itself"
        )
    listener(_analyzed(settings, found))
    plan = unfinished.planned(make_plan(settings, found), settings, files, found)
    state = State(files, found.identity, plan=plan.to_json(), tables=tuple(found.tables), also=files.also)
    state.readers = [reader.to_json() for reader in choice.readers]
    context = Context(settings, memory, plan, files, workers, listener, state, choice, began=began)
    if not plan.early_worker:
        workers.start_late()
    state.bounds = context.bounds()
    defaults = [(name, value, count) for name, (value, count) in found.defaults().items()]
    stored = found.stored
    said = (defaults, stored.converted, stored.unknown)
    listener(run.Planned(settings.batch_size, plan.total_batches, plan.to_json(), *said))
    state.engine = _probe(context)
    context.narrow(least_integer(int(state.engine["storage_version"])))
    _say_engine(context)
    return context


def _say_engine(context: Context) -> None:
    choice = context.choice
    if choice.refusal:  # said when it matters
        return
    found = [str(reader) for reader in choice.readers]
    where = "" if choice.interpreter.is_ours else f" of {choice.interpreter.python}"
    version = context.state.engine["storage_version"]
    name, warned = f"{context.engine_name()}{where}", large_pages.warnings(choice)
    context.listener(run.EngineChosen(name, version, choice.why, found, choice.unusable, warned))


def _probe(context: Context) -> Mapping[str, Any]:
    """Which engine is there. One that takes its worker down twice, before any file is opened, cannot be used."""
    answer = batch_retry.quietly(context, Job(task=Task.PROBE))
    if answer.kind in (FailureKind.KILLED, FailureKind.OUT_OF_MEMORY):
        raise StoppedError(f"{answer.message} before it did anything; free some memory")
    if answer.kind in (FailureKind.CRASHED, FailureKind.NO_ANSWER, FailureKind.HALF_ANSWER, FailureKind.UNEXPECTED):
        raise EngineError(unloadable(answer.message, context.choice.module, context.choice.interpreter.python))
    if not answer.ok:
        raise worker_failure.error_of(answer)
    engine: Mapping[str, Any] = answer.facts["engine"]
    return engine


def _analyzed(settings: Settings, found: Survey) -> run.Analyzed:
    rows = {name: extent.rows for name, extent in found.tables.items()}
    return run.Analyzed(
        source=str(settings.source),
        size=found.size,
        nodes=rows[NODES],
        edges=rows.get("memory_edges", 0),
        turns=rows.get("memory_turns", 0),
        layers=dict(found.layers),
        left_out=[(table.name, table.rows, table.why) for table in found.left_out],
    )
