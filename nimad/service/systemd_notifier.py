"""Notification of systemd by the protocol of sd_notify(3)."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sdnotify import SystemdNotifier

from nimad.printable import one_line

#: Seconds by which a start or a stop may go on after each sign of life.
_EXTENSION_S = 30
#: Signs of life in the time after which systemd would miss one.
_SIGNS = 3


class Manager:
    """Tells systemd how the service is; tells nobody where no systemd asked for it."""

    def __init__(self) -> None:
        self._notifier = SystemdNotifier()
        within_us = int(os.environ.get("WATCHDOG_USEC", "0"))
        for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between signs of life; None where nobody misses them.
        self.interval_s = within_us / 1e6 / _SIGNS if within_us and for_us else None
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):  # none of a child's business
            os.environ.pop(name, None)
        self._is_ready = self._is_ending = False
        self._status = ""
        self._beaten = self._extended = float("-inf")

    def ready(self) -> None:
        """The start is over, or a reload is."""
        self._is_ready = True
        self._tell(f"READY=1\nSTATUS={self._status}")

    def become_ready(self) -> None:
        """As `ready`, but said once."""
        if not self._is_ready and not self._is_ending:
            self.ready()

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        text = one_line(" ".join(text.split()))
        if text != self._status and not self._is_ending:
            self._status = text
            self._tell(f"STATUS={text}")

    def ping(self) -> None:
        """A sign of life. Cheap: what systemd needs not hear is not sent."""
        now = time.monotonic()
        if self.interval_s is not None and now - self._beaten >= self.interval_s:
            self._beaten = now
            self._tell("WATCHDOG=1")
        if not self._is_ready and now - self._extended >= _EXTENSION_S / _SIGNS:
            self._extended = now
            self._tell(f"EXTEND_TIMEOUT_USEC={_EXTENSION_S * 1_000_000}")

    @contextmanager
    def reload(self) -> Iterator[None]:
        """While it lasts, the service reads its configuration again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}")
        yield
        if self._is_ready:
            self.ready()

    def stopping(self, text: str) -> None:
        """The service is about to end; it may take as long as a worker takes to end well."""
        self._is_ready, self._is_ending = False, True
        self._status = one_line(" ".join(text.split()))
        self._tell(f"STOPPING=1\nSTATUS={self._status}\nEXTEND_TIMEOUT_USEC={_EXTENSION_S * 1_000_000}")

    def failed(self, text: str, number: int) -> None:
        """The service ends in an error; `number` is of errno(3)."""
        self._status = one_line(" ".join(text.split()))
        self._tell(f"ERRNO={number}\nSTATUS={self._status}")

    def _tell(self, state: str) -> None:
        # sdnotify encodes as Latin-1 and is silent about what that lacks; systemd expects UTF-8.
        self._notifier.notify(state.encode(errors="backslashreplace").decode("latin-1"))
