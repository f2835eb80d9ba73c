"""Following: the published target is kept in step with SQLite until OpenClaw reads it, and left alone from then on."""

import time

from nimad.config import Settings, read_openclaw
from nimad.config.openclaw import LADYBUG
from nimad.errors import ConfigurationError, DiskError, SourceError, StoppedError
from nimad.migration import pausing
from nimad.migration.events import Event, Listener
from nimad.migration.files import Files
from nimad.migration.following import Follower
from nimad.service.events import Postponed, Watching
from nimad.service.heart import Heart
from nimad.service.watching import Watch

#: A burst of writes is over when so many seconds were quiet, and is not waited for any longer than the second.
QUIET_S, BURST_S = 0.25, 2.0
#: Seconds after a change until every row is looked at: what neither a new id nor `last_accessed` tells of.
THOROUGH_S = 600.0
#: Seconds until a target that was open elsewhere, or a file that could not be read, is tried again.
AGAIN_S = 60.0


class Following:
    """What one target needs while the agent goes on writing to SQLite."""

    def __init__(self, settings: Settings, follower: Follower, heart: Heart, listener: Listener) -> None:
        self._settings, self._follower, self._heart, self._listener = settings, follower, heart, listener
        self._files = Files(settings.target)
        self._due: float | None = 0.0  # when every row is to be looked at: nobody knows what came while none ran
        self._told: Event | None = None

    def until_handed_over(self) -> bool:
        """Follow until the agent reads the target; False when the target is gone, or the heart says to stop."""
        settings = self._settings
        sources = [settings.source, settings.source.with_name(f"{settings.source.name}-wal"), settings.openclaw_file]
        with Watch(sources, [settings.target, self._files.paused], self._heart.ring) as watch:
            while not self._heart.is_set() and settings.target.exists():
                if self._follower.handed_over:
                    return True
                if pausing.is_paused(self._files):
                    self._tell(pausing.paused(self._files))
                    self._wait(watch, None)
                else:
                    self._wait(watch, self._step(watch))
        return False

    def _step(self, watch: Watch) -> float | None:
        """Catch up once; return for how many seconds to wait at most, None for as long as nothing is written."""
        last = self._agent_reads_target()
        thorough = last or (self._due is not None and time.monotonic() >= self._due)
        try:
            done = self._follower.catch_up(thorough=thorough, last=last)
        except (StoppedError, DiskError, SourceError) as error:
            if not self._heart.is_set():
                self._tell(Postponed(str(error), AGAIN_S))
            return AGAIN_S
        if done.left_alone:  # the follower says so itself
            return AGAIN_S
        if last:
            self._follower.hand_over()
            return 0.0
        if thorough:
            self._due = None
        self._tell(Watching(done.nodes, watch.polls))
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def _wait(self, watch: Watch, delay: float | None) -> None:
        """Wait until something is written, at most so many seconds."""
        if not self._heart.listen(delay):
            return
        began = time.monotonic()
        self._due = began + THOROUGH_S if self._due is None else self._due
        while self._heart.listen(QUIET_S) and time.monotonic() - began < BURST_S:
            pass
        while watch.rearm():
            pass

    def _agent_reads_target(self) -> bool:
        try:
            return read_openclaw(self._settings.openclaw_file).backend == LADYBUG
        except ConfigurationError:  # somebody may be writing it just now; it will ring again
            return False

    def _tell(self, event: Event) -> None:
        if event != self._told:
            self._told = event
            self._listener(event)
