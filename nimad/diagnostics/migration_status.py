"""The status of a migration, derived from lock, processes and state file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nimad.config import Settings
from nimad.diagnostics import processes
from nimad.diagnostics.processes import Process
from nimad.state import target_state
from nimad.state.paths import Files, not_for_us
from nimad.state.pause_file import is_paused
from nimad.state.quarantine_summary import QuarantineSummary


class MigrationStatus(StrEnum):
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


OF_SERVICE = (MigrationStatus.WAITING, MigrationStatus.FOLLOWING, MigrationStatus.PAUSED)
UNFINISHED = (MigrationStatus.RUNNING, MigrationStatus.INTERRUPTED, MigrationStatus.FAILED, MigrationStatus.PAUSED)
FINISHED = (MigrationStatus.COMPLETE, MigrationStatus.FOLLOWING)


@dataclass(frozen=True)
class Evidence:
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
        began = target_state.moment(self.told.get("started"))
        return began is not None and began >= int(self.holder_since)


def gather_evidence(settings: Settings) -> Evidence:
    """What tells of the migration to `settings.target`. Raises `NotAllowedError` where that is closed to us."""
    files = Files.of(settings)
    try:
        if files.state.exists() and not os.access(files.state, os.R_OK):
            raise not_for_us(files.state, "Permission denied")
        holder = processes.holder_of_lock(files.lock)
        since = files.lock.stat().st_mtime if holder else 0.0
        target, staging = files.target.exists(), files.staging.exists()
    except FileNotFoundError:  # the lock went between two looks
        return gather_evidence(settings)
    except PermissionError as error:
        raise not_for_us(files.target, str(error.strerror)) from None
    made = target_state.of_target(files) if target else {}
    running = processes.service_of(settings.target)
    service = running[0] if running else None
    return Evidence(
        settings=running[1] if running else settings,
        files=files,
        told=target_state.read(files),
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
        if not isinstance(noted, dict) or not noted or target_state.is_of(files, made):
            return False
        return files.target.stat().st_mtime_ns != noted.get("modified_ns")
    except OSError:  # it went since
        return False


def status_of(scene: Evidence) -> MigrationStatus:
    """How a migration stands, by what was found."""
    done_with = is_complete(scene) and not (scene.holder or scene.service)
    if is_paused(scene.files) and not done_with:
        return MigrationStatus.PAUSED
    if scene.holder:
        looks = scene.holder.is_service and not scene.is_of_holder and is_complete(scene)
        return MigrationStatus.FOLLOWING if looks else MigrationStatus.RUNNING
    if is_complete(scene):
        return MigrationStatus.FOLLOWING if scene.service else MigrationStatus.COMPLETE
    if scene.service:
        return MigrationStatus.WAITING
    return _stand_of_nobody(scene)


def _stand_of_nobody(scene: Evidence) -> MigrationStatus:
    if scene.staging:
        return MigrationStatus.FAILED if scene.told.get("phase") == "failed" else MigrationStatus.INTERRUPTED
    if scene.target:
        return MigrationStatus.UNTOLD
    if was_taken_away(scene.files):
        return MigrationStatus.GONE
    if scene.told:  # it ended before it had written anything
        return MigrationStatus.FAILED if scene.told.get("phase") == "failed" else MigrationStatus.INTERRUPTED
    return MigrationStatus.NOTHING


def was_taken_away(files: Files) -> bool:
    """Whether a run had published the target, and neither it nor another in the making is there."""
    if os.path.lexists(files.target) or os.path.lexists(files.staging):
        return False
    return target_state.read(files).get("phase") == "complete"


def is_complete(scene: Evidence) -> bool:
    return scene.target and not scene.staging and bool(scene.made.get("published"))


def quarantine_of(scene: Evidence, stand: MigrationStatus) -> QuarantineSummary | None:
    """What is in the quarantine of a finished target, where it can be read."""
    if stand not in FINISHED:
        return None
    try:
        return QuarantineSummary.of(scene.files.quarantine, scene.made)
    except OSError:
        return None
