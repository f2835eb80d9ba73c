"""Retrying: the same work again in a fresh process, at growing distances."""

from collections.abc import Callable
from dataclasses import replace

from nimad.errors import (
    BatchFailedError,
    CannotWriteError,
    DiskError,
    EngineError,
    ExitCode,
    NimadError,
    RefusedError,
    SourceError,
)
from nimad.migration.context import Context
from nimad.migration.ends import CIRCUMSTANTIAL, Action, Answer, Kind
from nimad.migration.events import BatchFailed, BatchRecovered, PoolRaised
from nimad.worker.job import Job

#: Seconds before each try.
DELAYS_S = (0.0, 1.0, 5.0, 15.0)


#: Ends in every try of a worker that only reads, which tell that the target is not to be read.
_UNREADABLE = (Kind.CRASHED, Kind.NO_ANSWER, Kind.HALF_ANSWER, Kind.ENGINE_ERROR, Kind.UNEXPECTED)


class UnreadableError(Exception):
    """The staging file does not open, or is damaged; it has to be repaired before anything else."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


class ExhaustedError(BatchFailedError):
    """No try succeeded; `answer` is the last one's."""

    def __init__(self, answer: Answer, attempts: int) -> None:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"a batch failed after {times}: {answer.message}; {_advice(answer)}")
        self.answer, self.attempts = answer, attempts


def attempt(context: Context, make_job: Callable[[int], Job], *, offset: int = 0) -> Answer:
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
    raise error_of(answer, number)


def attempt_reading(context: Context, make_job: Callable[[int], Job]) -> Answer:
    """As `attempt`, for a job that only reads the staging file: one that takes every worker down is to be repaired."""
    try:
        return attempt(context, make_job)
    except ExhaustedError as failure:
        if failure.answer.kind in _UNREADABLE:
            raise UnreadableError(replace(failure.answer, kind=Kind.DAMAGED)) from failure
        raise


def _relieve(context: Context, action: Action) -> int:
    """Make the next try easier; return how many times more it is to be halved."""
    if action is Action.LARGER_POOL and context.raise_pool():
        context.listener(PoolRaised(context.pool_bytes))
        return 0
    return 1 if action in (Action.LARGER_POOL, Action.SMALLER_BATCH) else 0


def quietly(context: Context, job: Job) -> Answer:
    """Do a job that is no batch; a worker that died is replaced once, and what the answer means is the caller's."""
    answer = context.do(job)
    died = answer.kind in (Kind.CRASHED, Kind.KILLED, Kind.NO_ANSWER, Kind.HALF_ANSWER, Kind.UNEXPECTED)
    want_of_pool = answer.kind in (Kind.POOL_FULL, Kind.CHECKPOINT_FAILED) and context.raise_pool()
    return context.do(job) if died or want_of_pool else answer


def same(job: Job) -> Callable[[int], Job]:
    """The same job for every try."""
    return lambda _: job


def error_of(answer: Answer, attempts: int = 1) -> NimadError:
    """The error that a failed answer means for the user."""
    message, make = answer.message, _ERRORS.get(answer.kind)
    if make is not None:
        return make(message)
    if answer.kind in (Kind.SOURCE, Kind.SOURCE_BUSY):
        error = SourceError(message)
        error.exit_code = ExitCode(answer.facts.get("exit_code", SourceError.exit_code))
        return error
    return ExhaustedError(answer, attempts)


_ERRORS: dict[Kind | None, Callable[[str], NimadError]] = {
    Kind.ENGINE_MISSING: EngineError,
    Kind.DISK: DiskError,
    Kind.SCHEMA: lambda message: RefusedError(
        f"the columns of the source are no longer those this run began with ({message}); begin again with --restart"
    ),
    Kind.STRICT: lambda message: RefusedError(
        f"stopped by --strict at a row that would be quarantined: {message}; correct it in the source, "
        "or run without --strict"
    ),
    Kind.STORAGE_VERSION: lambda message: EngineError(
        f"the unfinished target belongs to another release of LadybugDB ({message}); install that one again, or throw "
        "the unfinished target away with --restart"
    ),
    Kind.NOT_ALLOWED: lambda message: CannotWriteError(
        f"the engine may not write where the target is to be ({message}); change the permissions, or choose another "
        "place with --target"
    ),
    Kind.ADDRESS_SPACE: lambda message: RefusedError(
        f"the engine may not take the address space that it needs ({message}); raise the limit (ulimit -v unlimited)"
    ),
}


def _advice(answer: Answer) -> str:
    if answer.kind is Kind.LOCKED:
        return "close the program that has the unfinished target open"
    if answer.kind in CIRCUMSTANTIAL:
        return "free some memory, or try a smaller --batch-size"
    return "the log file has what the worker said last; run again once its cause is mended"
