"""Retrying: the same work again in a fresh process, at growing distances."""

from collections.abc import Callable

from nimad.errors import BatchFailedError, DiskError, EngineError, ExitCode, NimadError, RefusedError, SourceError
from nimad.migration.child import Answer, Workers
from nimad.migration.events import BatchFailed, BatchRecovered, Listener
from nimad.worker.job import Failure, Job

#: Seconds before each try.
DELAYS_S = (0.0, 1.0, 5.0, 15.0)
#: Failures that no repetition mends.
FINAL = frozenset({Failure.ENGINE, Failure.SOURCE, Failure.SCHEMA, Failure.STRICT, Failure.DISK})


def attempt(
    workers: Workers,
    make_job: Callable[[int], Job],
    listener: Listener,
    *,
    offset: int = 0,
) -> Answer:
    """Do a job until it is done, with `make_job(n)` making the job of the n-th try, counted from 0.

    Raises the error that belongs to the last failure when no try succeeds.
    """
    answer = Answer()
    for number in range(len(DELAYS_S)):
        answer = workers.do(make_job(number))
        if answer.ok:
            if number:
                listener(BatchRecovered(number + 1))
            return answer
        if answer.failure in FINAL:
            break
        following = number + 1
        delay = DELAYS_S[following] if following < len(DELAYS_S) else None
        listener(BatchFailed(following, len(DELAYS_S), answer.message, delay, offset, answer.stack))
        if delay is not None:
            workers.pause(delay)
    raise error_of(answer)


def quietly(workers: Workers, job: Job) -> Answer:
    """Do a job that is no batch; a worker that died is replaced once, and what the answer means is the caller's."""
    answer = workers.do(job)
    return workers.do(job) if answer.failure is Failure.UNEXPECTED else answer


def same(job: Job) -> Callable[[int], Job]:
    """The same job for every try."""
    return lambda _: job


def error_of(answer: Answer) -> NimadError:
    """The error that a failed answer means for the user."""
    message = answer.message
    if answer.failure is Failure.ENGINE:
        return EngineError(message)
    if answer.failure is Failure.SOURCE:
        error = SourceError(message)
        error.exit_code = ExitCode(answer.facts.get("exit_code", SourceError.exit_code))
        return error
    if answer.failure is Failure.DISK:
        return DiskError(message)
    if answer.failure is Failure.SCHEMA:
        return RefusedError(
            f"the columns of the source are no longer those this run began with ({message}); begin again with --restart"
        )
    if answer.failure is Failure.STRICT:
        return RefusedError(
            f"stopped by --strict at a row that would be quarantined: {message}; correct it in the source, "
            "or run without --strict"
        )
    return BatchFailedError(
        f"a batch failed after {len(DELAYS_S)} attempts: {message}; free some memory, or try a smaller --batch-size"
    )
