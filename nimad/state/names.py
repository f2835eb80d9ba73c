"""The names of a target, and the logs beside each: the engine keeps a log by the name that was opened.

Two names are two logs, and the engine reads that of the name which it is given. So whoever looks at a target looks
beside all its names, or would not see what an agent wrote by one of them and did not close.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.config import Settings, command
from nimad.errors import RefusedError
from nimad.host.disk import is_closed, logs
from nimad.state import target_state
from nimad.state.paths import Files


@dataclass(frozen=True)
class OtherLog:
    """A log of the engine's that is not read with the target: it lies beside another name of it."""

    name: Path
    log: Path


@dataclass(frozen=True)
class Remark:
    """What is to be known of a name, and the command that goes with it."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}"


def names_of(files: Files, made: Mapping[str, Any] | None = None) -> tuple[Path, ...]:
    """Every name of a target, its own first: those that are asked for, and those that its runs made."""
    told = [made] if made is not None else [target_state.read(files), target_state.of_target(files)]
    others = [*files.links, *(files.named(name) for data in told for name in target_state.names_of(data))]
    if any(data.get("without_links") for data in told):
        others = [name for name in others if os.path.lexists(name)]
    return tuple(dict.fromkeys([files.target, *others]))


def other_logs(files: Files) -> tuple[OtherLog, ...]:
    """What programs left that wrote to the target by another name and did not close it."""
    found = []
    for name in names_of(files)[1:]:
        with suppress(OSError):  # gone between two looks, or in a folder that is closed to us
            found += [OtherLog(name, log) for log in logs(name) if log.stat().st_size]
    return tuple(found)


def unread(files: Files) -> list[str]:
    """What to say of each such log, which is not in anything that was read of the target."""
    if not _is_there(files.target):
        return []
    told = target_state.identity_of(target_state.of_target(files))
    source = [] if told is None else ["--source", told.path]
    verify = command.line("verify", *source, "--target", files.target)
    return [
        f"{found.log} holds what a program wrote to {files.target} by the name {found.name} and did not close, and is "
        f"not read; let that program open and close {found.name} once more, then compare with: {verify}"
        for found in other_logs(files)
    ]


def missing(files: Files) -> list[Path]:
    """Names of a target that a run made which lead nowhere any more. The target itself is there."""
    if not _is_there(files.target) or not target_state.of_target(files):
        return []
    return [name for name in names_of(files)[1:] if not os.path.lexists(name)]


def remarks(settings: Settings, files: Files) -> list[Remark]:
    """What is to be known of the names of a target that is there: which are missing, or lead elsewhere."""
    if not _is_there(files.target) or not target_state.of_target(files):
        return []
    found = [said_missing(settings, name) for name in missing(files)]
    for name in names_of(files)[1:]:
        if os.path.lexists(name) and not files.is_link(name):
            what = f"the name {name} is no link to {files.target}; see what stands against it"
            found.append(Remark(what, command.migrate(settings, "--dry-run")))
    return found


def _is_there(target: Path) -> bool:
    try:
        return target.exists()
    except PermissionError:  # in a folder that is closed to us
        return False


def said_missing(settings: Settings, name: Path) -> Remark:
    """What to say of a name that is missing."""
    return Remark(f"the name {name} is missing; nimad migrate makes it again", command.migrate(settings))


def check_names_closed(files: Files, before: Sequence[str]) -> None:
    """Raise when a program that wrote by a further name left its log there: it stands by that name alone."""
    for path in dict.fromkeys([*files.links, *map(files.named, before)]):
        if not is_closed(path):
            raise RefusedError(
                f"a program wrote to {files.target} by the name {path} and did not close it; let it open and close "
                "that once more, then run again"
            )
