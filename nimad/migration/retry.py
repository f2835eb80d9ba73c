"""Retries of a job in fresh processes, with growing delays."""

from collections.abc import Callable
from dataclasses import replace

from nimad.events.run import BatchFailed, BatchRecovered, PoolRaised
from nimad.migration.context import Context
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import Action, FailureKind, WorkerResult
from nimad.worker.protocol import Job

#: Seconds before each try.
DELAYS_S = (0.0, 1.0, 5.0, 15.0)


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
    halvings = 0
    for number, following in enumerate((*DELAYS_S[1:], None), start=1):
        answer = context.do(make_job(halvings))
        if answer.ok:
            if number > 1:
                context.listener(BatchRecovered(number))
            return answer
        action = answer.rule.action
        if action is Action.REPAIR:
            raise UnreadableError(answer)
        delay = following if action not in (Action.STOP, Action.ISOLATE) else None
        context.listener(BatchFailed(number, len(DELAYS_S), answer.message, delay, offset, answer.stack))
        if delay is None:
            break
        context.state.retries += 1
        halvings += _relieve(context, action)
        context.workers.pause(delay)
    raise worker_failure.error_of(answer, number)


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
