"""Following: sync for as long as the service runs, after each change of the source."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from nimad.config import Settings
from nimad.errors import DifferenceError, NimadError
from nimad.events.run import Event, Listener
from nimad.events.service import Followed, Looked, NameMissing, Postponed, Remounted, Watching
from nimad.host.disk import mount_number
from nimad.service.file_watch import Watch
from nimad.service.stop_event import StopEvent
from nimad.state import names, pause_file
from nimad.state.paths import Files
from nimad.sync.follower import Follower

#: A burst of writes is over when so many seconds were quiet, and is not waited for any longer than the second.
QUIET_S, BURST_S = 0.25, 2.0
#: Seconds after a change until every row is looked at: what neither a new id nor `last_accessed` tells of; seconds that
#: the agent has to rest for that, because a turn would wait for it; and those after which it is not waited for.
THOROUGH_S, CALM_S, OVERDUE_S = 600.0, 10.0, 600.0
#: Seconds until a target that was open elsewhere, or a file that could not be read, is tried again; and at least.
AGAIN_S, SOON_S = 60.0, 5.0


class FollowEnd(Enum):
    """Why following is over."""

    GONE = auto()  # somebody took the target away
    REMOUNTED = auto()  # another file system is at its place, and has none; or the memory went with it
    INTERRUPTED = auto()  # the service stops, or its settings are others now


@dataclass
class FullCheckTimer:
    """When every row is to be looked at, in seconds of the monotonic clock. At first, nobody knows what came before."""

    due: float | None = -math.inf
    changed: float = -math.inf

    @property
    def at(self) -> float | None:
        """When it is to begin unless something changes; None where nothing did since the last one."""
        return None if self.due is None else min(max(self.due, self.changed + CALM_S), self.due + OVERDUE_S)

    def note_change(self, now: float) -> None:
        self.changed = now
        if self.due is None:
            self.due = now + THOROUGH_S


class Following:
    """What one target needs while the agent goes on writing to SQLite. `mounts`: as they were before the migration."""

    def __init__(
        self, settings: Settings, follower: Follower, stop: StopEvent, listener: Listener, mounts: Mapping[Path, int]
    ) -> None:
        self._settings, self._follower, self._stop, self._listener = settings, follower, stop, listener
        self._files = Files.of(settings)
        self._whole = FullCheckTimer()
        self._told: Event | None = None
        self._mounts = dict(mounts)
        self._missing: frozenset[str] = frozenset()  # names of the target, as they were told of

    def run(self) -> FollowEnd:
        """Follow for as long as there is a target."""
        settings = self._settings
        log = settings.source.resolve().with_name(f"{settings.source.resolve().name}-wal")
        self._listener(Followed(str(settings.source), str(settings.log_file)))
        coming = [settings.target, *self._files.links, self._files.paused]
        with Watch([settings.source, log], coming, self._stop.wake) as watch, ExitStack() as at_end:
            at_end.callback(self._follower.rest)
            while not self._stop.is_set():
                try:
                    end = self._go_on(watch)
                except OSError as error:  # of a disk that fails, or a folder that was closed to us
                    self._follower.rest()
                    self._tell(Postponed(f"{error.filename or settings.target}: {error.strerror or error}", AGAIN_S))
                    self._wait(watch, self._later())
                else:
                    if end is not None:
                        return end
        return FollowEnd.INTERRUPTED

    def _go_on(self, watch: Watch) -> FollowEnd | None:
        """Catch up, and wait until there is more; why following is over, where it is."""
        remounted = self._look_at_mounts()
        if not self._settings.target.exists():
            return FollowEnd.REMOUNTED if remounted or not self._settings.source.exists() else FollowEnd.GONE
        self._look_at_names()
        if pause_file.is_paused(self._files):
            self._tell(pause_file.paused(self._files))
            self._follower.rest()
            wait_for_more(self._stop, watch)
            self._whole = FullCheckTimer()  # nobody listens to what is written meanwhile
        else:
            self._wait(watch, self._step(watch))
        return None

    def _look_at_mounts(self) -> bool:
        """Say so, and look at every row, where a folder is on another file system than before; whether one is."""
        mounts = mounts_of(self._settings)
        others = [folder for folder, mount in mounts.items() if mount != self._mounts.get(folder, mount)]
        for folder in others:
            self._listener(Remounted(str(folder)))
            self._whole = FullCheckTimer()
        self._mounts |= mounts
        return bool(others)

    def _look_at_names(self) -> None:
        """Say once of each name of the target that it is missing."""
        missing = names.missing(self._files)
        for name in missing:
            if str(name) not in self._missing:
                self._listener(NameMissing(str(name), names.said_missing(self._settings, name).remedy))
        self._missing = frozenset(map(str, missing))

    def _step(self, watch: Watch) -> float | None:
        """Catch up once; return for how many seconds to wait at most, None for as long as nothing is written."""
        try:
            at = self._whole.at
            thorough = at is not None and time.monotonic() >= at
            done = self._follower.catch_up(thorough=thorough)
            if done.left_alone:  # the follower says so itself, once
                self._told = None
                return self._later()
        except DifferenceError:
            raise
        except (NimadError, OSError) as error:
            if not self._stop.is_set():
                self._tell(Postponed(str(error), AGAIN_S))
            return self._later()
        if thorough:
            self._whole.due = None
        self._listener(Looked(done.nodes))
        self._tell(Watching(done.nodes, watch.polls))
        due = None if self._whole.at is None else max(0.0, self._whole.at - time.monotonic())
        waits = [seconds for seconds in (due, self._follower.compaction_due_s) if seconds is not None]
        return min(waits, default=None)

    def _later(self) -> float:
        """Not at each write, because every try takes a worker; but what is written meanwhile is not forgotten."""
        woken, deadline = False, time.monotonic() + SOON_S
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            woken |= self._stop.listen(left)
        if woken:
            self._stop.wake()
        return AGAIN_S

    def _wait(self, watch: Watch, delay: float | None) -> None:
        if wait_for_more(self._stop, watch, delay, self._follower.source_stamps, self._follower.get_ready):
            self._whole.note_change(time.monotonic())

    def _tell(self, event: Event) -> None:
        if event != self._told:
            self._told = event
            self._listener(event)


def mounts_of(settings: Settings) -> dict[Path, int]:
    """The mount that each folder of a memory is on, but for those that are gone."""
    folders = settings.target.parent, settings.source.parent, settings.source.resolve().parent
    return {folder: mount for folder in dict.fromkeys(folders) if (mount := mount_number(folder))}


def wait_for_more(
    stop: StopEvent,
    watch: Watch,
    delay: float | None = None,
    written: Callable[[], object] = object,
    get_ready: Callable[[], object] = object,
) -> bool:
    """Wait until a burst of changes is over, at most so many seconds without one; whether there was one.

    `get_ready`: called as it begins.
    `written`: what differs once something was written, each ring if it is left out. Who only reads SQLite rings too,
    because it makes a log for each reader and takes that away: one that reads often is not to hold up a turn.
    """
    if not stop.listen(delay, watch.rearm):
        return False
    get_ready()
    began, before = time.monotonic(), written()
    quiet_at = began + QUIET_S
    while (left := min(quiet_at, began + BURST_S) - time.monotonic()) > 0 and stop.listen(left):
        if (now := written()) != before:
            before, quiet_at = now, time.monotonic() + QUIET_S
    watch.rearm()
    return True
