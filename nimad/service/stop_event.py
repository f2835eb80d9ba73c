"""The stop event of the service, which is also its watchdog ping.

Every loop that works, or waits for a worker within its time, asks whether to stop. That it asks is the sign that it
goes on: one that hangs does not ask, and systemd, missing the sign, ends the process and starts it again.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopEvent(threading.Event):
    """A stop flag that beats when it is asked, and wakes who waits when it is rung.

    Without a lock, because signal handlers set it in the middle of anything. `ping` is called at each question, and
    says whether what goes on now is to stop although the service is not.
    """

    def __init__(self, ping: Callable[[], bool], interval_s: float | None) -> None:
        super().__init__()
        self._ping, self._interval_s, self._stopped = ping, interval_s, False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._mounts = _mounts()

    @property
    def stopped(self) -> bool:
        """Whether the service itself is to end."""
        return self._stopped

    def is_set(self) -> bool:
        interrupted = self._ping()
        return self._stopped or interrupted

    def set(self) -> None:
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Wake who waits. From any thread, and from a signal handler."""
        with suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._write, b".")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set or the time is over; whether it is set."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (deadline is None or time.monotonic() < deadline):
            self.listen(None if deadline is None else deadline - time.monotonic())
        return self.is_set()

    def listen(self, timeout: float | None = None, look: Callable[[], bool] | None = None) -> bool:
        """Wait for one ring, at most so many seconds; whether it was rung. Else it wakes for signs of life, and mounts.

        With each of these it may `look` for itself: true is as good as a ring.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            times = [seconds for seconds in (left, self._interval_s) if seconds is not None]
            if select.select([self._read], [], self._mounts, min(times, default=None))[0]:
                self._drain()
                return True
            if look is not None and look():
                return True
            if left is not None and time.monotonic() >= (deadline or 0.0):
                return False
        return False

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._read, 4_096):
                pass


def _mounts() -> list[int]:
    """What select(2) has as an exception once something is mounted or unmounted (proc(5)): no watch tells of that."""
    try:
        return [os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)]
    except OSError:
        return []


@contextmanager
def handle_signals(stop_event: StopEvent, reload: Callable[[], None]) -> Iterator[None]:
    """While it lasts, SIGTERM and SIGINT stop the service, and SIGHUP has it read its configuration again."""

    def stop(_: int, __: FrameType | None) -> None:
        stop_event.set()

    def read_again(_: int, __: FrameType | None) -> None:
        reload()
        stop_event.wake()

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: read_again}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
