"""Retries: the same work again in a fresh process, with growing delays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nimad.supervisor.outcome import WorkerResult

#: Seconds before each try of a batch.
BATCH_DELAYS_S = (0.0, 1.0, 5.0, 15.0)
#: The same of work on a published target: whoever has that open needs it for a moment.
TARGET_DELAYS_S = (0.0, 1.0, 5.0)


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
