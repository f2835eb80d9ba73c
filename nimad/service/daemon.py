"""The daemon: waits for its trigger, migrates, and then keeps the target in sync."""

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from nimad.config import Settings
from nimad.config.defaults import DEFAULT
from nimad.config.openclaw import LADYBUG
from nimad.errors import (
    ConfigurationError,
    DiskError,
    ExitCode,
    LockedError,
    NimadError,
    RefusedError,
    SourceError,
    StoppedError,
)
from nimad.events import service
from nimad.events.result import Result
from nimad.events.run import Event, LateArrivals, Listener, NothingToDo, Paused, Started
from nimad.migration.run import migrate
from nimad.migration.salvage import check_readable
from nimad.service import disks
from nimad.service.file_watch import Watch
from nimad.service.follow import FollowEnd, Following, mounts_of, wait_for_more
from nimad.service.openclaw_file import OpenClawFile
from nimad.service.stop_event import StopEvent, handle_signals
from nimad.service.systemd_notifier import Manager
from nimad.state import target_state
from nimad.state.paths import Files
from nimad.sync.follower import Follower

#: Seconds until a run that stopped is tried again, the last of them for each further time.
POSTPONED_S = (60.0, 300.0, 900.0, 3_600.0)
#: Settings that hold at once; for any other, what goes on is begun again, and goes on from what is counted.
_AT_ONCE = {"log_level", "metrics_file"}

#: What shows that the start is over: the lock is taken, or there is nothing to take it for.
_READY = (Started, NothingToDo, Paused, service.Waiting, service.Watching, service.Postponed)


class Daemon:
    """One service process.

    Parameters
    ----------
    load:
        Gives the settings as they are now.
    manager:
        Who is told how the service is.
    listener:
        Called with every event of the service and of its runs.
    on_reload:
        Called with settings that hold from now on.
    places:
        Where disks have to be mounted for there to be a memory.

    """

    def __init__(
        self,
        load: Callable[[], Settings],
        systemd: Manager,
        listener: Listener,
        on_reload: Callable[[Settings], None],
        places: Sequence[str] = (),
    ) -> None:
        self._places = places
        self._load, self._systemd, self._listener, self._on_reload = load, systemd, listener, on_reload
        self._stop = StopEvent(self._ping, systemd.interval_s)
        self._reload_asked = self._begin_again = self._told_stopping = False
        self._postponed = 0
        self._settings = self._running = load()

    def run(self) -> ExitCode:
        """Work until told to stop, or until there is nothing left to do. Raises `NimadError`."""
        with handle_signals(self._stop, self._ask_reload):
            while not self._stop.stopped:
                self._running, self._begin_again = self._settings, False
                code = self._once(self._running)
                if code is not None:
                    return code
        return ExitCode.COMPLETE

    def _once(self, settings: Settings) -> ExitCode | None:
        """Migrate when it is time, and follow; the exit code once nothing is left to do."""
        if not self._wait_for_disks(settings):
            return None
        if covered := disks.covered(self._places or disks.over(settings.source)):
            self._heard(service.DiskCame(covered[0]))
            return ExitCode.IO_ERROR  # after which systemd starts a process that can see it
        _check_set_up(settings)
        asked = settings if _is_due(settings) else self._wait_until_asked(settings)
        mounts = mounts_of(asked or settings)
        result = None if asked is None else self._migrate(asked)
        if asked is None or result is None:
            return None
        if settings.after == "exit":
            return result.exit_code
        follower = Follower(asked, self._stop, self._heard)
        end = Following(asked, follower, self._stop, self._heard, mounts).run()
        if end is FollowEnd.REMOUNTED and not self._away(asked):  # a disk is waited for by its own name
            self._wait_for_memory(asked)
        if end is not FollowEnd.GONE:
            return None
        if self._away(asked) or asked.target.exists():  # its disk went, and may be back already
            return None
        self._heard(service.TargetGone(str(asked.target)))
        return ExitCode.COMPLETE if settings.trigger == "start" else None

    # Before a run

    def _away(self, settings: Settings) -> list[str]:
        return disks.lacking(self._places, settings.source)

    def _wait_for_disks(self, settings: Settings) -> bool:
        """Wait until the disks are there; whether they are."""
        said: list[str] = []
        while not self._stop.is_set():
            away = self._away(settings)
            if not away:
                return True
            if away != said:
                why = "the memory is on it; the service goes on as soon as it is mounted"
                self._heard(service.Waiting(f"the disk at {' and '.join(away)}", why))
            said = away
            self._stop.wait(disks.POLL_S)
        return False

    def _wait_until_asked(self, settings: Settings) -> Settings | None:
        """Wait for OpenClaw's file and the memory; the settings of the run, or None when something else came first."""
        openclaw, said = OpenClawFile(settings), None
        with Watch([settings.openclaw_file, settings.source], [], self._stop.wake) as watch:
            while not self._stop.is_set():
                waiting = _lacking(openclaw) or self._lacks_memory(settings)
                if waiting is None:
                    return openclaw.asked()
                if waiting != said:
                    self._heard(waiting)
                said = waiting
                wait_for_more(self._stop, watch)
        return None

    def _wait_for_memory(self, settings: Settings) -> None:
        """Wait until a memory is there again, as with the disk that it is on."""
        said = None
        with Watch([settings.source], [], self._stop.wake) as watch:
            while not self._stop.is_set() and (waiting := self._lacks_memory(settings)) is not None:
                if waiting != said:
                    self._heard(waiting)
                said = waiting
                wait_for_more(self._stop, watch)

    def _lacks_memory(self, settings: Settings) -> service.Waiting | None:
        """What is to be waited for where the memory is not there yet, or just being made."""
        try:
            check_readable(settings.source, self._stop)
        except (SourceError, StoppedError) as error:
            return service.Waiting(f"a memory at {settings.source}", str(error))
        return None

    # The run

    def _migrate(self, settings: Settings) -> Result | None:
        """Migrate; None where that stopped for what may pass, and is to be tried again."""
        try:
            result = migrate(settings, self._heard, self._stop)
        except NimadError as error:
            if self._stop.is_set() or self._away(settings):
                return None
            if not _may_pass(error):
                raise
            self._postpone(error)
            return None
        self._postponed = 0
        return result

    def _postpone(self, error: NimadError) -> None:
        delay = POSTPONED_S[min(self._postponed, len(POSTPONED_S) - 1)]
        self._postponed += 1
        self._heard(service.Postponed(str(error), delay, int(error.exit_code)))
        self._stop.wait(delay)

    # What comes from outside

    def _heard(self, event: Event) -> None:
        follows = self._running.after == "follow"  # then what comes late is added, and no reason to start over
        if follows and isinstance(event, LateArrivals):
            return
        self._listener(replace(event, late=0) if follows and isinstance(event, NothingToDo) else event)
        if isinstance(event, _READY):
            self._systemd.become_ready()

    def _ask_reload(self) -> None:
        self._reload_asked = True

    def _ping(self) -> bool:
        """At each question whether to stop: say that we live, and see to what signals asked for."""
        if self._stop.stopped:
            if not self._told_stopping:
                self._told_stopping = True
                self._systemd.stopping("Stopping: everything counted is kept")
                self._listener(service.Stopping())
        elif self._reload_asked:
            self._reload_asked = False
            self._reload()
        self._systemd.ping()
        return self._begin_again

    def _reload(self) -> None:
        with self._systemd.reload():
            try:
                fresh = self._load()
            except NimadError as error:
                self._listener(service.ReloadRefused(str(error)))
                return
            changed, self._settings = _differing(self._settings, fresh), fresh
            self._on_reload(fresh)
            self._listener(service.Reloaded(tuple(sorted(changed))))
            self._begin_again = bool(_differing(self._running, fresh) - _AT_ONCE)


def _differing(one: Settings, other: Settings) -> set[str]:
    return {each.name for each in fields(one) if each.compare and getattr(one, each.name) != getattr(other, each.name)}


def _is_due(settings: Settings) -> bool:
    """Whether there is no trigger to wait for: none is set, or the target was published, which is what it asks for."""
    return settings.trigger == "start" or bool(
        settings.target.exists() and target_state.of_target(Files(settings.target))
    )


def _may_pass(error: NimadError) -> bool:
    """Whether to try again by and by: want of memory or disk, a locked source, another run of somebody's."""
    if isinstance(error, RefusedError):
        return isinstance(error, LockedError)
    return isinstance(error, DiskError) or error.exit_code is ExitCode.INTERRUPTED


def _lacking(openclaw: OpenClawFile) -> service.Waiting | None:
    """What OpenClaw's file lacks, for a migration to be asked for."""
    try:
        content = openclaw.content()
        openclaw.asked()
    except NimadError as error:  # somebody may be writing it just now
        return service.Waiting("openclaw.json to be corrected", str(error))
    why = content.why_not
    if why is None:
        return None
    key = "auto_migrate" if content.backend == LADYBUG else f'backend "{LADYBUG}"'
    return service.Waiting(f"{key if content.enabled else 'enabled'} in {content.path.name}", why)


def _check_set_up(settings: Settings) -> None:
    """Raise when nobody said whose memory it is, and there is none of the user whose service this is."""
    if settings.trigger == "start" and settings.origin("source") == DEFAULT and not os.access(settings.source, os.F_OK):
        raise ConfigurationError(
            f"there is no memory at {settings.source}, and nothing says where it is; say whose memory it is with: "
            "sudo nimad setup --user NAME"
        )
