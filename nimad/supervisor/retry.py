"""Retries: the same work again in a fresh process, with growing delays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nimad.supervisor.outcome import Action, WorkerResult

#: Seconds before each try of a batch.
BATCH_DELAYS_S = (0.0, 1.0, 5.0, 15.0)
#: The same of work on a published target: whoever has that open needs it for a moment.
TARGET_DELAYS_S = (0.0, 1.0, 5.0)
#: Pools that work on a published target is given, one after the other, as multiples of the first.
POOLS = (1, 2, 4)


@dataclass(frozen=True)
class FailedTry:
    """A try that failed. `delay_s`: seconds until the next one by the schedule, None after the last."""

    result: WorkerResult
    number: int
    delay_s: float | None


def retry(
    work: Callable[[], WorkerResult],
    next_delay_s: Callable[[FailedTry], float | None],
    pause: Callable[[float], object],
    delays_s: Sequence[float],
) -> WorkerResult:
    """Do the work at most `len(delays_s)` times, until it succeeds; return the last result.

    `next_delay_s` is asked after each failure, also the last: seconds to wait before the next try, None to give up.
    """
    for number, delay_s in enumerate((*delays_s[1:], None), start=1):
        result = work()
        if result.ok:
            break
        wait_s = next_delay_s(FailedTry(result, number, delay_s))
        if wait_s is None or delay_s is None:
            break
        pause(wait_s)
    return result


def with_larger_pools(work: Callable[[int], WorkerResult], grown: int = 1) -> WorkerResult:
    """Do the work with pools so many times the usual one, while a larger one helps; return the last result.

    To be used where one try leaves a checkpoint half-way for the next to end, with which nothing else can be done.
    """
    for pool in POOLS:
        result = work(grown * pool)
        if result.ok or result.rule.action is not Action.LARGER_POOL:
            break
    return result
