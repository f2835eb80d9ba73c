"""As whom a command works: as root, it becomes the memory's owner before it opens anything of the owner's."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nimad.config import Settings, load
from nimad.config.toml_file import DEFAULT_FILE
from nimad.errors import NotAllowedError
from nimad.host import folders, rights
from nimad.host.folders import ROOT

_SOURCE, _TARGET = "source", "target"


def begin(
    options: Mapping[str, Any],
    config: Path | None = None,
    user: str | None = None,
    *,
    by: str = _SOURCE,
    writes: bool = False,
) -> dict[str, Any]:
    """Become who owns the memory that these options name; return the options with which to load the settings then.

    `by`: whether source or target says whose it is; `writes`: whether the command makes a target and its log. With a
    `user`, that one is become. No effect for who is not root.
    """
    if user is not None:
        rights.become(user)
        return dict(options)
    if os.geteuid() != ROOT:
        return dict(options)
    # OpenClaw's file is the owner's, and read as the owner.
    found = load({**options, "auto": None}, os.environ, config)
    place = _place(found, by)
    told = [path for path in (found.log_file, found.metrics_file) if path is not None] if writes else []
    _check_told(found)
    became = rights.become_owner(place, found.target if writes else None, told)
    _check_config(found.config_file or DEFAULT_FILE)
    return _held(options, config, found) if became else dict(options)


def _place(found: Settings, by: str) -> Path:
    if by == _SOURCE and not os.path.lexists(found.source) and os.path.lexists(found.target):
        return found.target
    return found.source if by == _SOURCE else found.target


def _held(options: Mapping[str, Any], config: Path | None, found: Settings) -> dict[str, Any]:
    """The options, with the files that root meant, where in the owner's home others would be meant."""
    now = load({**options, "auto": None}, os.environ, config)
    names = [name for name in (_SOURCE, _TARGET) if getattr(now, name) != getattr(found, name)]
    return {**options, **{name: getattr(found, name) for name in names}}


def _check_told(found: Settings) -> None:
    """Raise where a settings file that others can change has root write in a folder of root's."""
    file = found.config_file or DEFAULT_FILE
    if folders.is_roots_alone(file) and folders.is_roots_alone(file.resolve()):
        return
    for name in ("log_file", "metrics_file"):
        path: Path | None = getattr(found, name)
        if path is None or not found.origin(name).startswith(str(file)):
            continue
        if folders.is_roots(path.parent):
            raise NotAllowedError(
                f"{file} can be changed by others than root, and names {path}, in a folder of root's; give that file "
                "and its folders to root, or name another place in it"
            )


def _check_config(file: Path) -> None:
    """Raise where a settings file is another user's, who would say what is done, and with which programs."""
    try:
        holder = file.stat().st_uid
    except OSError:
        return
    if holder not in (ROOT, os.geteuid()):
        raise NotAllowedError(
            f"{file} belongs to {rights.name_of(holder)}, and not to root or {rights.name_of(os.geteuid())}; name "
            "another with --config, or give it to root with chown"
        )
