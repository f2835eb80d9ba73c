"""The daemon: waits until it is asked, migrates, keeps the target in step until the agent has been handed over."""

import os
from collections.abc import Callable
from dataclasses import fields

from nimad.config import OpenClaw, Settings
from nimad.config.openclaw import LADYBUG
from nimad.config.places import DEFAULT
from nimad.errors import ConfigurationError, ExitCode, NimadError, RefusedError
from nimad.migration.events import Event, Listener, NothingToDo, Paused, Started
from nimad.migration.following import Follower
from nimad.migration.run import migrate
from nimad.service import events
from nimad.service.following import Following
from nimad.service.heart import Heart, heeding
from nimad.service.manager import Manager
from nimad.service.watching import Watch

#: Seconds until a run that stopped is tried again, the last of them for each further time.
POSTPONED_S = (60.0, 300.0, 900.0, 3_600.0)
#: Settings that hold at once; for any other, what goes on is begun again, and goes on from what is counted.
_AT_ONCE = {"log_level", "origins", "config_file"}

#: What shows that the start is over: the lock is taken, or there is nothing to take it for.
_READY = (Started, NothingToDo, Paused, events.Waiting, events.Watching, events.Postponed)


class Daemon:
    """One service process.

    Parameters
    ----------
    load:
        Gives the settings as they are now; with True, those for a migration that OpenClaw's file asks for.
    manager:
        Who is told how the service is.
    listener:
        Called with every event of the service and of its runs.
    on_reload:
        Called with settings that hold from now on.

    """

    def __init__(
        self,
        load: Callable[[bool], Settings],
        manager: Manager,
        listener: Listener,
        on_reload: Callable[[Settings], None],
    ) -> None:
        self._load, self._manager, self._listener, self._on_reload = load, manager, listener, on_reload
        self._heart = Heart(self._beat, manager.interval_s)
        self._reload_asked = self._begin_again = self._told_stopping = False
        self._postponed = 0
        self._settings = load(False)

    def run(self) -> ExitCode:
        """Work until told to stop, or until there is nothing left to do. Raises `NimadError` for what people mend."""
        with heeding(self._heart, self._ask_reload):
            _check_set_up(self._settings)
            while not self._heart.stopped:
                self._begin_again = False
                code = self._once(self._settings)
                if code is not None:
                    return code
        return ExitCode.COMPLETE

    def _once(self, settings: Settings) -> ExitCode | None:
        """Migrate when it is time, and follow; the exit code once nothing is left to do."""
        if settings.trigger == "openclaw":
            asked = self._wait_until_asked(settings)
            if asked is None:
                return None
            settings = asked
        if not self._migrate(settings):
            return None
        if settings.after == "exit":
            return ExitCode.COMPLETE
        follower = Follower(settings, self._heart, self._heard)
        handed_over = Following(settings, follower, self._heart, self._heard).until_handed_over()
        if not handed_over or self._heart.is_set():
            return None if settings.trigger == "openclaw" or self._heart.is_set() else ExitCode.COMPLETE
        if settings.trigger == "openclaw":
            self._wait_until_gone(settings)
            return None
        return ExitCode.COMPLETE

    # Before a run

    def _wait_until_asked(self, settings: Settings) -> Settings | None:
        """Wait for OpenClaw's file and the memory; the settings of the run, or None when something else came first."""
        said: events.Waiting | None = None
        with Watch([settings.openclaw_file, settings.source], [], self._heart.ring) as watch:
            while not self._heart.is_set():
                asked, waiting = self._look(settings)
                if waiting is None:
                    return asked
                if waiting != said:
                    self._heard(waiting)
                said = waiting
                self._heart.listen()
                while watch.rearm():
                    pass
        return None

    def _look(self, settings: Settings) -> tuple[Settings | None, events.Waiting | None]:
        try:
            asked = self._load(True)
        except ConfigurationError as error:  # somebody may be writing it just now
            return None, events.Waiting(f"{settings.openclaw_file.name} to be corrected", str(error))
        if asked.openclaw is not None and (why := asked.openclaw.why_not):
            return None, events.Waiting(f"{_lacking(asked.openclaw)} in {settings.openclaw_file.name}", why)
        if not asked.source.exists():
            return None, events.Waiting(f"a memory at {asked.source}", "there is none yet")
        return asked, None

    def _wait_until_gone(self, settings: Settings) -> None:
        """Wait until somebody takes the target away, which is how OpenClaw's people ask for another migration."""
        with Watch([], [settings.target], self._heart.ring) as watch:
            while not self._heart.is_set() and settings.target.exists():
                self._heart.listen()
                while watch.rearm():
                    pass

    # The run

    def _migrate(self, settings: Settings) -> bool:
        """Whether the target is complete. A run that stopped for what may pass is tried again later."""
        try:
            migrate(settings, self._heard, self._heart)
        except NimadError as error:
            if self._heart.is_set():
                return False
            if isinstance(error, RefusedError) or error.exit_code is not ExitCode.INTERRUPTED:
                raise
            self._postpone(error)
            return False
        self._postponed = 0
        return True

    def _postpone(self, error: NimadError) -> None:
        delay = POSTPONED_S[min(self._postponed, len(POSTPONED_S) - 1)]
        self._postponed += 1
        self._heard(events.Postponed(str(error), delay))
        self._heart.wait(delay)

    # What comes from outside

    def _heard(self, event: Event) -> None:
        self._listener(event)
        if isinstance(event, _READY):
            self._manager.become_ready()

    def _ask_reload(self) -> None:
        self._reload_asked = True

    def _beat(self) -> bool:
        """At each question whether to stop: say that we live, and see to what signals asked for."""
        if self._heart.stopped:
            if not self._told_stopping:
                self._told_stopping = True
                self._manager.stopping("Stopping: everything counted is kept")
                self._listener(events.Stopping())
        elif self._reload_asked:
            self._reload_asked = False
            self._reload()
        self._manager.beat()
        return self._begin_again

    def _reload(self) -> None:
        with self._manager.reload():
            try:
                fresh = self._load(False)
            except NimadError as error:
                self._listener(events.ReloadRefused(str(error)))
                return
            before, self._settings = self._settings, fresh
            changed = tuple(each.name for each in fields(fresh) if _differs(each.name, before, fresh))
            self._on_reload(fresh)
            self._listener(events.Reloaded(changed))
            self._begin_again = bool(set(changed) - _AT_ONCE)


def _differs(name: str, one: Settings, other: Settings) -> bool:
    return name != "origins" and bool(getattr(one, name) != getattr(other, name))


def _lacking(openclaw: OpenClaw) -> str:
    """The key of OpenClaw's file that does not ask for a migration."""
    if not openclaw.enabled:
        return "enabled"
    return "auto_migrate" if openclaw.backend == LADYBUG else f'backend "{LADYBUG}"'


def _check_set_up(settings: Settings) -> None:
    """Raise when nobody said whose memory it is, and there is none of the user whose service this is."""
    if settings.trigger == "start" and settings.origin("source") == DEFAULT and not os.access(settings.source, os.F_OK):
        raise ConfigurationError(
            f"there is no memory at {settings.source}, and nothing says where it is; say whose memory it is with: "
            "sudo nimad setup --user NAME"
        )
