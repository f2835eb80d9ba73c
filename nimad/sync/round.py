"""One sync round: a worker applies later rows, and another one confirms them."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nimad.config import Settings, command
from nimad.errors import DifferenceError, StoppedError
from nimad.events.run import Listener, SetAside
from nimad.host import machine
from nimad.host.disk import has_log, logs
from nimad.source.bounds import size_taken
from nimad.source.schema import Schema
from nimad.state import target_state
from nimad.state.left_out import Isolated, Refused
from nimad.state.paths import Files, set_logs_aside
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import Action, FailureKind, WorkerResult
from nimad.supervisor.plan import CHUNK_BYTES, CHUNK_ROWS, limits_for
from nimad.supervisor.retry import TARGET_DELAYS_S, FailedTry, retry, with_larger_pools
from nimad.supervisor.timeout import Timeout
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Applied, Job, Late, Task

#: Seconds that the agent is let finish which opened the target before our worker did, and between two looks at that.
_AGENT_S, _POLL_S = 1.0, 0.05
#: How often rows that are not found afterwards are brought again.
ROUNDS = 3
#: Rows that a message names.
NAMED = 5

#: Ends that may be those of a worker whom the target's log takes down.
_MAYBE_THE_LOG = (
    FailureKind.CRASHED,
    FailureKind.NO_ANSWER,
    FailureKind.HALF_ANSWER,
    FailureKind.ENGINE_ERROR,
    FailureKind.UNEXPECTED,
    FailureKind.HUNG,
)


def engine_of(workers: WorkerPool) -> Mapping[str, Any]:
    """The engine that the workers use. Raises the error that belongs to the last failure when none can be used."""

    def next_delay_s(failed: FailedTry) -> float | None:
        return failed.delay_s if failed.result.rule.action is Action.RETRY else None

    answer = retry(lambda: workers.do(Job(task=Task.PROBE)), next_delay_s, workers.pause, TARGET_DELAYS_S)
    if not answer.ok:
        raise worker_failure.error_of(answer)
    engine: Mapping[str, Any] = answer.facts["engine"]
    return engine


def until_free(target: Path, stop: threading.Event, limit_s: float) -> bool:
    """Wait until no program has the target open, at most so many seconds; whether none has."""
    deadline = time.monotonic() + limit_s
    while machine.holder_of(target) is not None:
        if time.monotonic() > deadline:
            return False
        if stop.wait(_POLL_S):
            raise StoppedError("stopped")
    return True


class LeftAloneError(Exception):
    """Nothing was written, for a reason in words for people."""


class OtherColumnsError(Exception):
    """Columns of the source that the target's cannot hold: (table, column, why)."""

    def __init__(self, columns: Sequence[tuple[str, str, str]]) -> None:
        super().__init__()
        self.columns = columns


class _LogError(Exception):
    """The target's log cannot be replayed, and nobody but us wrote it."""

    def __init__(self, answer: WorkerResult) -> None:
        super().__init__(answer.message)
        self.answer = answer


@dataclass(frozen=True)
class RoundResult:
    """What one catching-up came to; rows by source table and id."""

    opened: bool  # whether the target was opened for writing
    since: int
    added: Mapping[str, set[int]]
    changed: Mapping[str, set[int]]
    removed: Mapping[str, set[int]]
    settled: Mapping[str, set[int]]  # rows that were judged anew, by the lines of the quarantine that hold
    rejected: frozenset[str]
    counts: Mapping[str, int]  # rows by target table, as the process after it counted
    moved: Mapping[str, list[int]]  # rows that the source changed between the two
    dimension: int = 0  # floats in an embedding of the target; 0 where that was not looked at


class SyncRound:
    """One catching-up. The caller holds the target's lock."""

    def __init__(
        self,
        settings: Settings,
        files: Files,
        schema: Schema,
        workers: WorkerPool,
        listener: Listener,
        left_out: tuple[Isolated, Refused],
        *,
        left: Mapping[str, Any] | None,
    ) -> None:
        """`left_out`: rows and values that the engine does not take.

        `left`: the stamps of the target as we left it, None where its log is not ours alone.
        """
        self._settings, self._files, self._workers, self._listener = settings, files, workers, listener
        self.left = left
        self._timeout = Timeout()
        self._pool_factor = 1
        self._base = Job(
            task=Task.SYNC,
            source=str(settings.source),
            target=str(files.target),
            schema=schema,
            ledger=str(files.followed),
            quarantine=str(files.quarantine),
            conflicts=str(files.conflicts),
            chunk_rows=CHUNK_ROWS,
            chunk_bytes=CHUNK_BYTES,
            isolated=left_out[0],
            refused=left_out[1],
            extension=str(settings.vector_extension or ""),
        )

    def run(self, late: Late) -> RoundResult:
        """Catch up. Raises `LeftAloneError` when the target has to stay as it is, and `OtherColumnsError`."""
        base, dimension = self._base, 0
        found: dict[str, Any] = {name: dict[str, set[int]]() for name in ("added", "changed", "removed", "settled")}
        rejected: set[str] = set()
        opened = False
        missing: Mapping[str, list[int]] = {}
        moved: Mapping[str, list[int]] = {}
        for _ in range(ROUNDS):
            try:
                facts = self._caught_up(replace(base, late=late))
                since = int(facts["since"])
                if not facts["opened"]:
                    return RoundResult(
                        opened,
                        since,
                        **found,
                        rejected=frozenset(rejected),
                        counts={},
                        moved=moved,
                        dimension=dimension,
                    )
                opened, dimension = True, int(facts["dimension"])
                base = replace(base, schema=replace(base.needs(), dimension=dimension))
                self._count_removed(facts["applied"]["removed"], found["removed"])
                _collect(found, facts)
                rejected.update(facts["rejected"])
                confirmed = self._do(replace(base, task=Task.CONFIRM, applied=Applied(**facts["applied"])))
            except _LogError as error:
                self._set_log_aside(error.answer)
                late, missing = replace(late, thorough=True, distrust=True, keep_log=False), {}
                continue
            _add(found["settled"], confirmed["confirmed"])
            missing, moved = confirmed["missing"], confirmed["moved"]
            if not missing:
                counts = {name: count["rows"] for name, count in confirmed["counts"].items()}
                return RoundResult(
                    opened,
                    since,
                    **found,
                    rejected=frozenset(rejected),
                    counts=counts,
                    moved=moved,
                    dimension=dimension,
                )
            late = replace(late, again={t: [*missing.get(t, ()), *moved.get(t, ())] for t in {*missing, *moved}})
        if not missing:
            raise LeftAloneError(f"{self._files.target} cannot be caught up: the engine does not read its own log")
        named = [f"{table} id {key}" for table, keys in missing.items() for key in keys]
        raise DifferenceError(
            f"{self._files.target} does not keep {len(named)} rows ({', '.join(named[:NAMED])}); check the disk "
            f"(dmesg), then rebuild it with: {command.migrate(self._settings, '--replace')}"
        )

    def _caught_up(self, job: Job) -> Mapping[str, Any]:
        facts = self._do(job)
        if facts.get("opened") or "refused" in facts:
            stamps = target_state.stamps_of(self._files.target)
            self.left = stamps if self.left is not None or not stamps["log"] else None
        if facts.get("refused") == "columns":
            raise OtherColumnsError([(each["table"], each["column"], each["why"]) for each in facts["columns"]])
        if "refused" in facts:
            raise LeftAloneError(self._refusal(facts))
        return facts

    def _count_removed(self, removed: Mapping[str, list[int]], before: Mapping[str, set[int]]) -> None:
        """Note how many rows were taken out since the target was made: many small losses are a large one.

        Before the ledger has them as gone: a kill in between counts them twice, and not never.
        """
        more = {table: len(set(keys) - before.get(table, set())) for table, keys in removed.items()}
        if any(more.values()):
            made = target_state.of_target(self._files)
            sums = Counter(made.get("removed", {}))
            sums.update(more)
            target_state.note(self._files, made, {"removed": dict(sums)})

    def _refusal(self, facts: Mapping[str, Any]) -> str:
        source, target = self._settings.source, self._files.target
        if facts["refused"] == "shrunk":
            before = f", after {facts['before']} that were removed before" if facts["before"] else ""
            return (
                f"{source} has lost {facts['lost']} of the {facts['noted']} rows of {facts['table']} that are in "
                f"{target}{before}; nothing was removed, and nothing will be until this is resolved: put the "
                f"rows back, or make a target without them with: {command.migrate(self._settings, '--replace')}"
            )
        if facts["refused"] == "damaged":
            return f"pages of {source} are damaged ({facts['why']}), so {target} may hold the last copy of some rows"
        if facts["refused"] == "free pages":
            return (
                f"{target} lists free pages twice, as real_ladybug 0.15.3 leaves them, and the next write may destroy "
                "it; have the agent use LadybugDB 0.18 or later, then rebuild it with: "
                f"{command.migrate(self._settings, '--replace')}"
            )
        return f"{target} has a vector index, and its extension cannot be loaded ({facts['why']})"

    def _do(self, job: Job) -> Mapping[str, Any]:
        """Do a job until it is done, or nothing is left to try."""
        task = job.task

        def work() -> WorkerResult:
            result = self._try(job)
            if result.kind is FailureKind.RECOVERY_PENDING and self._recover():
                return self._try(job)  # each try with too small a pool leaves a checkpoint to end
            return result

        def next_delay_s(failed: FailedTry) -> float | None:
            nonlocal job
            kind, action = failed.result.kind, failed.result.rule.action
            if kind is FailureKind.RECOVERY_PENDING:
                return None
            if kind in (FailureKind.WAL_REPLAY, FailureKind.UNREADABLE) and has_log(self._files.target):
                raise self._log_error(failed.result)
            if kind is FailureKind.LOCKED and until_free(self._files.target, self._workers.stop, _AGENT_S):
                return 0.0
            if kind in (FailureKind.LOCKED, FailureKind.SOURCE_BUSY) or action in (Action.STOP, Action.REPAIR):
                return None
            if action is Action.LARGER_POOL:
                self._pool_factor *= 2
            if action is Action.SMALLER_BATCH:
                job = replace(job, chunk_rows=max(1, job.chunk_rows // 2))
            return failed.delay_s

        answer = retry(work, next_delay_s, self._workers.pause, TARGET_DELAYS_S)
        if answer.ok:
            return answer.facts
        if answer.kind in _MAYBE_THE_LOG and task is not Task.COUNT and has_log(self._files.target):
            self._do_without(answer)
        raise LeftAloneError(self._words(answer))

    def _recover(self) -> bool:
        """End a checkpoint that did not come to its end, which opening for writing does; False where it is under way.

        What the log holds is in the target then, whoever wrote it. Raises what belongs to a log that is torn, and
        `LeftAloneError` where the target does not open for writing either.
        """
        if not until_free(self._files.target, self._workers.stop, _AGENT_S):
            return False
        count = replace(self._base, task=Task.COUNT, schema=None, writable=True)

        def work(grown: int) -> WorkerResult:
            self._pool_factor = grown  # also of what comes after, which takes no less
            return self._try(count)

        done = with_larger_pools(work, self._pool_factor)
        if done.ok:
            return True
        if done.kind in (FailureKind.WAL_REPLAY, FailureKind.UNREADABLE):
            raise self._log_error(done)
        raise LeftAloneError(self._words(done))

    def _do_without(self, failed: WorkerResult) -> None:
        """Raise what belongs to a log that takes workers down, when it is the log."""
        counting = replace(self._base, task=Task.COUNT, schema=None)
        if self._try(counting).kind in _MAYBE_THE_LOG and self._try(counting).kind in _MAYBE_THE_LOG:
            raise self._log_error(failed)

    def _log_error(self, answer: WorkerResult) -> Exception:
        """What to raise for a log that does not open: only what is ours, to the byte, may be done without."""
        target = self._files.target
        if self.left is not None and self.left["log"] == target_state.logs_of(target):
            return _LogError(answer)
        names = " and ".join(str(log) for log in logs(target))
        return LeftAloneError(
            f"{target} does not open with its log {names} ({answer.message}), which is not as nimad left it and may "
            "hold memories that are nowhere else; let the program that wrote it open and close the target, or move "
            "the log away yourself"
        )

    def _try(self, job: Job) -> WorkerResult:
        taken = machine.space_taken(self._files.target)
        limits = limits_for(taken, self._settings.memory_limit, grown=self._pool_factor)
        size = taken + size_taken(self._settings.source)
        last = job.task is not Task.SYNC  # after which another process looks
        answer = self._workers.do(job.within(limits), limit_s=self._timeout.limit_s(size), last=last)
        return worker_failure.with_holder(answer, self._files.target)

    def _words(self, answer: WorkerResult) -> str:
        if answer.kind in (FailureKind.LOCKED, FailureKind.RECOVERY_PENDING):
            return f"{self._files.target} is open in another program ({answer.message})"
        if answer.kind is FailureKind.SCHEMA:
            return f"the columns of {self._settings.source} are not those of {self._files.target} ({answer.message})"
        if answer.kind in (FailureKind.CRASHED, FailureKind.HUNG):
            return (
                f"{self._files.target} cannot be caught up, because every worker ends ({answer.message}), perhaps on a "
                f"row that is new, and nothing comes after it until that is fixed; see {self._settings.log_file}"
            )
        return f"{self._files.target} cannot be caught up: {answer.message}"

    def _set_log_aside(self, answer: WorkerResult) -> None:
        """Give what the engine cannot replay another name. What was in it SQLite has, and it is brought again."""
        target = self._files.target
        # The ledger tells of what was in it, and a kill must not let that be believed.
        target_state.note(self._files, target_state.of_target(self._files), {"distrust": True})
        moved = set_logs_aside(target)
        self.left = target_state.stamps_of(target)
        self._listener(SetAside([str(path) for path in moved], answer.message, whole=False))


def _collect(found: Mapping[str, dict[str, set[int]]], facts: Mapping[str, Any]) -> None:
    for name in ("added", "changed"):
        _add(found[name], facts[name])
    _add(found["removed"], facts["applied"]["removed"])
    _add(found["settled"], facts["aside"])


def _add(sets: dict[str, set[int]], rows: Mapping[str, list[int]]) -> None:
    for table, keys in rows.items():
        sets.setdefault(table, set()).update(keys)
