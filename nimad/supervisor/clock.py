"""The clock that waits between two tries; tests pass one that does not wait."""

import threading


class Clock:
    """Time as it passes."""

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait so many seconds, or until `stop` is set; whether it is."""
        return stop.wait(seconds)
