"""Following: the published target is kept in step with SQLite until OpenClaw reads it, and left alone from then on."""

import time
from enum import Enum, auto

from nimad.config import Settings
from nimad.errors import DifferenceError, NimadError, RefusedError
from nimad.migration import pausing
from nimad.migration.events import Event, Listener
from nimad.migration.files import Files
from nimad.migration.following import Follower
from nimad.service.events import Followed, Looked, Postponed, Watching
from nimad.service.heart import Heart
from nimad.service.openclaw import Watched
from nimad.service.watching import Watch

#: A burst of writes is over when so many seconds were quiet, and is not waited for any longer than the second.
QUIET_S, BURST_S = 0.25, 2.0
#: Seconds after a change until every row is looked at: what neither a new id nor `last_accessed` tells of.
THOROUGH_S = 600.0
#: Seconds until a target that was open elsewhere, or a file that could not be read, is tried again; and at least.
AGAIN_S, SOON_S = 60.0, 5.0


class End(Enum):
    """Why following is over."""

    HANDED_OVER = auto()
    GONE = auto()  # somebody took the target away
    INTERRUPTED = auto()  # the service stops, or its settings are others now


class Following:
    """What one target needs while the agent goes on writing to SQLite."""

    def __init__(self, settings: Settings, follower: Follower, heart: Heart, listener: Listener) -> None:
        self._settings, self._follower, self._heart, self._listener = settings, follower, heart, listener
        self._files, self._openclaw = Files(settings.target), Watched(settings)
        self._due: float | None = 0.0  # when every row is to be looked at: nobody knows what came while none ran
        self._told: Event | None = None

    def until_handed_over(self) -> End:
        """Follow for as long as the target is ours."""
        settings = self._settings
        log = settings.source.resolve().with_name(f"{settings.source.resolve().name}-wal")
        sources = [settings.source, log, settings.openclaw_file]
        self._listener(Followed(str(settings.source), str(settings.log_file)))
        with Watch(sources, [settings.target, self._files.paused], self._heart.ring) as watch:
            while not self._heart.is_set():
                if not settings.target.exists():
                    return End.GONE
                if self._follower.handed_over:
                    return End.HANDED_OVER
                if pausing.is_paused(self._files):
                    self._tell(pausing.paused(self._files))
                    wait_for_more(self._heart, watch)
                else:
                    self._wait(watch, self._step(watch))
        return End.INTERRUPTED

    def _step(self, watch: Watch) -> float | None:
        """Catch up once; return for how many seconds to wait at most, None for as long as nothing is written."""
        try:
            last = self._openclaw.agent_reads_target()
            thorough = last or (self._due is not None and time.monotonic() >= self._due)
            done = self._follower.catch_up(thorough=thorough, last=last)
            if done.left_alone:  # the follower says so itself, once
                self._told = None
                return self._later()
            if last:
                return self._hand_over()
        except DifferenceError:
            raise
        except (NimadError, OSError) as error:
            if not self._heart.is_set():
                self._tell(Postponed(str(error), AGAIN_S))
            return self._later()
        if thorough:
            self._due = None
        self._listener(Looked(done.nodes))
        self._tell(Watching(done.nodes, watch.polls))
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def _hand_over(self) -> float:
        """Hand over, or take one more round when something came in the meantime."""
        try:
            self._follower.hand_over()
        except RefusedError:
            return SOON_S
        return 0.0

    def _later(self) -> float:
        """Not at each write, because every try takes a worker; but what is written meanwhile is not forgotten."""
        rung, deadline = False, time.monotonic() + SOON_S
        while not self._heart.is_set() and (left := deadline - time.monotonic()) > 0:
            rung |= self._heart.listen(left)
        if rung:
            self._heart.ring()
        return AGAIN_S

    def _wait(self, watch: Watch, delay: float | None) -> None:
        if wait_for_more(self._heart, watch, delay) and self._due is None:
            self._due = time.monotonic() + THOROUGH_S

    def _tell(self, event: Event) -> None:
        if event != self._told:
            self._told = event
            self._listener(event)


def wait_for_more(heart: Heart, watch: Watch, delay: float | None = None) -> bool:
    """Wait until a burst of changes is over, at most so many seconds without one; whether there was one."""
    if not heart.listen(delay, watch.rearm):
        return False
    began = time.monotonic()
    while heart.listen(QUIET_S) and time.monotonic() - began < BURST_S:
        pass
    watch.rearm()
    return True
