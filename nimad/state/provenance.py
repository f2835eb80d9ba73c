"""Provenance: the source that a target was made from, and who may replace it by another memory."""

import os
from dataclasses import dataclass
from pathlib import Path

from nimad.config import Settings, command, defaults
from nimad.errors import CannotWriteError, UsageError
from nimad.source.sqlite_file import Identity
from nimad.state import target_state
from nimad.state.paths import Files


def source_of(target: Path) -> Path | None:
    """The source of the run that is under way or was interrupted, or else of the finished target, if a file tells.

    Where that is gone, it may have moved with the target's folder.
    """
    files = Files(target)
    told = target_state.identity_of(
        target_state.read(files) if files.staging.exists() else target_state.of_target(files)
    )
    if told is None:
        return None
    path = Path(told.path)
    beside = target.with_name(path.name)
    return beside if beside.exists() and not os.path.lexists(path) else path


def source_to_retry(settings: Settings) -> Path:
    """The source to read again for the target, when nobody typed one: never a default that belongs to another target.

    Raises `UsageError` when there is no such target, or nothing tells of its source.
    """
    target = settings.target
    if not os.path.lexists(target) and not Files(target).staging.exists():
        raise not_there(target)
    told = source_of(target)
    if told is not None:
        # By the name the user knows, where it is the same file: the log is kept beside that one.
        return settings.source if settings.source.resolve() == told else told
    if settings.link is not None and target.parent == settings.source.parent:
        return settings.source
    raise UsageError(f"nothing tells from which source {target} was made; name it with --source")


def not_there(target: Path) -> UsageError:
    """That there is no finished target, and what to type: never what would make one of some other memory."""
    if not Files(target).staging.exists():
        return UsageError(f"there is no file {target}; name a finished target with --target")
    source = source_of(target)
    if source is None:
        return UsageError(f"{target} is unfinished; go on with the command that began it")
    return UsageError(
        f"{target} is unfinished; go on with: {command.line('migrate', '--source', source, '--target', target)}"
    )


def check_replaceable(settings: Settings, maker: Identity | None, mine: Identity, what: Path) -> None:
    """Raise `CannotWriteError` when `what`, made from `maker`, would give way to another memory that nobody named.

    Called once the rows have told that it is another one, or nothing tells of them.
    """
    if maker is None or maker.path == mine.path:
        return
    another = f"{what} was made from another source: {maker.path}, not {mine.path}"
    if settings.retry:
        raise CannotWriteError(
            f"{another}; leave --source out to try that one again, or make a new target of this one with: "
            f"{command.migrate(settings, '--replace')}"
        )
    # Settings that a program made itself have no origins, and name their source outright.
    if settings.origins.get("source", defaults.COMMAND_LINE) != defaults.COMMAND_LINE:
        raise CannotWriteError(
            f"{another}, which was not typed but comes from: {settings.origin('source')}; to put one in its place, "
            "name the source to read with --source"
        )


@dataclass(frozen=True)
class MadeWith:
    """`readers`: interpreters of the agent; `storage_version`: of the file that is there, 0 where nothing tells."""

    also: tuple[str, ...] = ()
    readers: tuple[Path, ...] = ()
    storage_version: int = 0


def made_with(target: Path) -> MadeWith:
    """By the state file of the run that is under way or was interrupted, or else of the finished target."""
    files = Files(target)
    data = target_state.read(files) if files.staging.exists() else target_state.of_target(files)
    versions = data.get("versions", {})
    try:
        return MadeWith(
            also=tuple(target_state.names_of(data)),
            readers=tuple(Path(reader["python"]) for reader in versions.get("readers", ())),
            storage_version=int(versions.get("engine", {}).get("storage_version", 0)),
        )
    except (TypeError, ValueError, KeyError, AttributeError):  # somebody wrote in it
        return MadeWith()
