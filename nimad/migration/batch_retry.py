"""Retries of a job in fresh processes, with growing delays."""

from collections.abc import Callable
from dataclasses import replace

from nimad.events.run import BatchFailed, BatchRecovered, PoolRaised
from nimad.migration.context import Context
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import Action, FailureKind, WorkerResult
from nimad.supervisor.retry import BATCH_DELAYS_S, FailedTry, retry
from nimad.worker.protocol import Job

#: Ends in every try of a worker that only reads, which tell that the target is not to be read.
_UNREADABLE = (
    FailureKind.CRASHED,
    FailureKind.NO_ANSWER,
    FailureKind.HALF_ANSWER,
    FailureKind.ENGINE_ERROR,
    FailureKind.UNEXPECTED,
)


class UnreadableError(Exception):
    """The staging file does not open, or is damaged; it has to be repaired before anything else."""

    def __init__(self, answer: WorkerResult) -> None:
        super().__init__(answer.message)
        self.answer = answer


def attempt(context: Context, make_job: Callable[[int], Job], *, offset: int = 0) -> WorkerResult:
    """Do a job until it is done, with `make_job(n)` making one that is n times halved.

    Raises the error that belongs to the last failure when no try succeeds, and `UnreadableError` when the staging
    file does not open.
    """
    halvings, failures = 0, 0

    def next_delay_s(failed: FailedTry) -> float | None:
        nonlocal halvings, failures
        result, action = failed.result, failed.result.rule.action
        failures = failed.number
        if action is Action.REPAIR:
            raise UnreadableError(result)
        delay_s = failed.delay_s if action not in (Action.STOP, Action.ISOLATE) else None
        context.listener(BatchFailed(failed.number, len(BATCH_DELAYS_S), result.message, delay_s, offset, result.stack))
        if delay_s is not None:
            context.state.retries += 1
            halvings += _relieve(context, action)
        return delay_s

    answer = retry(lambda: context.do(make_job(halvings)), next_delay_s, context.workers.pause, BATCH_DELAYS_S)
    if not answer.ok:
        raise worker_failure.error_of(answer, failures)
    if failures:
        context.listener(BatchRecovered(failures + 1))
    return answer


def attempt_reading(context: Context, make_job: Callable[[int], Job]) -> WorkerResult:
    """As `attempt`, for a job that only reads the staging file: one that takes every worker down is to be repaired."""
    try:
        return attempt(context, make_job)
    except worker_failure.ExhaustedError as failure:
        if failure.answer.kind in _UNREADABLE:
            raise UnreadableError(replace(failure.answer, kind=FailureKind.DAMAGED)) from failure
        raise


def _relieve(context: Context, action: Action) -> int:
    """Make the next try easier; return how many times more it is to be halved."""
    if action is Action.LARGER_POOL and context.raise_pool():
        context.listener(PoolRaised(context.pool_bytes))
        return 0
    return 1 if action in (Action.LARGER_POOL, Action.SMALLER_BATCH) else 0


def quietly(context: Context, job: Job) -> WorkerResult:
    """Do a job that is no batch; a worker that died is replaced once, and what the answer means is the caller's."""
    answer = context.do(job)
    died = answer.kind in (
        FailureKind.CRASHED,
        FailureKind.KILLED,
        FailureKind.NO_ANSWER,
        FailureKind.HALF_ANSWER,
        FailureKind.UNEXPECTED,
    )
    want_of_pool = answer.kind in (FailureKind.POOL_FULL, FailureKind.CHECKPOINT_FAILED) and context.raise_pool()
    return context.do(job) if died or want_of_pool else answer


def same(job: Job) -> Callable[[int], Job]:
    """The same job for every try."""
    return lambda _: job
