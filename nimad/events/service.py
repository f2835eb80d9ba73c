"""Events of the service between runs, as facts."""

from dataclasses import dataclass

from nimad.events.run import Event


@dataclass(frozen=True)
class Waiting(Event):
    """OpenClaw's file does not ask for a migration yet, or there is no memory. `what`: in few words."""

    what: str
    why: str


@dataclass(frozen=True)
class DiskCame(Event):
    """A disk that was waited for is there, and this process cannot see it."""

    place: str


@dataclass(frozen=True)
class Followed(Event):
    """From now on what reaches the source is brought to the complete target."""

    source: str
    log_file: str


@dataclass(frozen=True)
class TargetGone(Event):
    """Somebody took the target away."""

    target: str


@dataclass(frozen=True)
class Remounted(Event):
    """Another file system is at the place of a folder; what lies there now is what counts."""

    folder: str


@dataclass(frozen=True)
class NameMissing(Event):
    """A further name of the target is missing; the target itself is there. `command`: what makes it again."""

    name: str
    command: str


@dataclass(frozen=True)
class Watching(Event):
    """The target is complete, and SQLite is watched for memories that come late. `polls`: by looking now and then."""

    memories: int
    polls: bool


@dataclass(frozen=True)
class Looked(Event):
    """SQLite was looked at for memories that come late, and the target has them all: so many memories."""

    memories: int


@dataclass(frozen=True)
class Postponed(Event):
    """A run stopped for a reason that may pass; it is tried again after so many seconds."""

    message: str
    delay_s: float
    exit_code: int = 0


@dataclass(frozen=True)
class Reloaded(Event):
    """The configuration was read again. `changed`: names of the settings that are others now."""

    changed: tuple[str, ...]


@dataclass(frozen=True)
class ReloadRefused(Event):
    """The configuration cannot be; the one before goes on to hold."""

    message: str


@dataclass(frozen=True)
class Stopping(Event):
    """The service was asked to stop."""
