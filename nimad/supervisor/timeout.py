"""The timeout of a worker, from the speed of earlier ones."""

#: Seconds that any worker may take: a Pi that swaps needs long to start one.
FLOOR_S = 120.0
#: Seconds that a worker may take which tries some rows in a file of their own.
TRIAL_FLOOR_S = 30.0
#: A worker hangs when it takes this many times as long as the slowest before it would have.
SLACK = 10.0
#: Bytes a second before anything was observed: an SD card at its worst.
ASSUMED_RATE = 1e6
#: Bytes below which a worker's time says more of its start than of the disk.
TELLING = 1_000_000


class Timeout:
    """The time limit of the next worker, in seconds, from the bytes that it has to touch."""

    def __init__(self) -> None:
        self._slowest = 0.0

    def limit_s(self, work: int, *, trial: bool = False) -> float:
        """Seconds for touching `work` bytes: of the batch, and of the file that a checkpoint rewrites."""
        floor = TRIAL_FLOOR_S if trial else FLOOR_S
        return floor + SLACK * work / (self._slowest or ASSUMED_RATE)

    def note(self, work: int, seconds: float) -> None:
        """A worker did `work` bytes in so many seconds."""
        if work >= TELLING and seconds > 0:
            rate = work / seconds
            self._slowest = min(rate, self._slowest or rate)
