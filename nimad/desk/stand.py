"""How a migration stands: what the lock, the processes and the state file tell, and what that comes to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nimad.config import Settings
from nimad.desk import processes
from nimad.desk.processes import Process
from nimad.migration import state
from nimad.migration.files import Files, not_for_us
from nimad.migration.pausing import is_paused
from nimad.migration.tally import Tally


class Stand(StrEnum):
    """How a migration stands."""

    NOTHING = "nothing"  # no migration, and no target
    WAITING = "waiting"  # a service waits until it is asked, or until it is time to try again
    RUNNING = "running"
    PAUSED = "paused"  # by `nimad pause`
    INTERRUPTED = "interrupted"  # unfinished, and nobody is at it
    FAILED = "failed"  # the same, and the run said why
    COMPLETE = "complete"
    FOLLOWING = "following"  # complete, and a service adds what comes late
    GONE = "gone"  # it was complete, and somebody took the target away
    UNTOLD = "untold"  # a target is there, and no run tells of it


OF_SERVICE = (Stand.WAITING, Stand.FOLLOWING, Stand.PAUSED)
UNFINISHED = (Stand.RUNNING, Stand.INTERRUPTED, Stand.FAILED, Stand.PAUSED)
FINISHED = (Stand.COMPLETE, Stand.FOLLOWING)


@dataclass(frozen=True)
class Scene:
    """What was found, before it is judged."""

    settings: Settings
    files: Files
    told: Mapping[str, Any]  # by the state file
    made: Mapping[str, Any]  # by the run that made the target which is there
    holder: Process | None
    holder_since: float
    service: Process | None
    target: bool
    staging: bool
    replaced: bool = False  # the target which is there is another file than the one that the state file tells of

    @property
    def is_of_holder(self) -> bool:
        """Whether the state file tells of the run that holds the lock, and not of an earlier one."""
        began = state.moment(self.told.get("started"))
        return began is not None and began >= int(self.holder_since)


def look(settings: Settings) -> Scene:
    """What tells of the migration to `settings.target`. Raises `NotAllowedError` where that is closed to us."""
    files = Files.of(settings)
    try:
        if files.state.exists() and not os.access(files.state, os.R_OK):
            raise not_for_us(files.state, "Permission denied")
        holder = processes.holder_of_lock(files.lock)
        since = files.lock.stat().st_mtime if holder else 0.0
        target, staging = files.target.exists(), files.staging.exists()
    except FileNotFoundError:  # the lock went between two looks
        return look(settings)
    except PermissionError as error:
        raise not_for_us(files.target, str(error.strerror)) from None
    made = state.of_target(files) if target else {}
    running = processes.service_of(settings.target)
    service = running[0] if running else None
    return Scene(
        settings=running[1] if running else settings,
        files=files,
        told=state.read(files),
        made=made,
        holder=holder,
        holder_since=since,
        service=service,
        target=target,
        staging=staging,
        replaced=_is_replaced(files, made),
    )


def _is_replaced(files: Files, made: Mapping[str, Any]) -> bool:
    """Whether a target is neither the file that was published nor as old as that, as in a folder that was copied."""
    noted = made.get("file")
    try:
        if not isinstance(noted, dict) or not noted or state.is_of(files, made):
            return False
        return files.target.stat().st_mtime_ns != noted.get("modified_ns")
    except OSError:  # it went since
        return False


def stand_of(scene: Scene) -> Stand:
    """How a migration stands, by what was found."""
    done_with = is_complete(scene) and not (scene.holder or scene.service)
    if is_paused(scene.files) and not done_with:
        return Stand.PAUSED
    if scene.holder:
        looks = scene.holder.is_service and not scene.is_of_holder and is_complete(scene)
        return Stand.FOLLOWING if looks else Stand.RUNNING
    if is_complete(scene):
        return Stand.FOLLOWING if scene.service else Stand.COMPLETE
    if scene.service:
        return Stand.WAITING
    return _stand_of_nobody(scene)


def _stand_of_nobody(scene: Scene) -> Stand:
    if scene.staging:
        return Stand.FAILED if scene.told.get("phase") == "failed" else Stand.INTERRUPTED
    if scene.target:
        return Stand.UNTOLD
    if was_taken_away(scene.files):
        return Stand.GONE
    if scene.told:  # it ended before it had written anything
        return Stand.FAILED if scene.told.get("phase") == "failed" else Stand.INTERRUPTED
    return Stand.NOTHING


def was_taken_away(files: Files) -> bool:
    """Whether a run had published the target, and neither it nor another in the making is there."""
    if os.path.lexists(files.target) or os.path.lexists(files.staging):
        return False
    return state.read(files).get("phase") == "complete"


def is_complete(scene: Scene) -> bool:
    return scene.target and not scene.staging and bool(scene.made.get("published"))


def tally_of(scene: Scene, stand: Stand) -> Tally | None:
    """What is in the quarantine of a finished target, where it can be read."""
    if stand not in FINISHED:
        return None
    try:
        return Tally.of(scene.files.quarantine, scene.made)
    except OSError:
        return None
