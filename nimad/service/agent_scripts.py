"""The scripts of nima-core's guide, installed in the folder of the agent's plugin.

They take the place of nima-core's own, which are kept with a date and put back by `take_back`. Everything in the home
is done by a process that has become its owner (`as_user`), so that no link there leads root to another user's file.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nimad
from nimad.errors import CannotWriteError, NotAllowedError
from nimad.host import rights
from nimad.host.as_user import as_user
from nimad.host.disk import name_stamp
from nimad.host.rights import UserAccount, account_of
from nimad.state.paths import free_name

#: In a home, where OpenClaw has nima-core's plugin.
FOLDER: Final = Path(".openclaw/extensions/nima-memory")
#: What the scripts need comes before them.
NAMES: Final = ("nimad_program.py", "migrate_to_ladybug.py", "health_check.py")
#: The second line of a script of ours, which names what it took the place of; another one's is kept and never removed.
_MARK: Final = "# Written by «nimad setup»; «nimad setup --undo» takes it away"
_PUTS_BACK: Final = ", and puts back: "
_INSTALLED: Final = "INSTALLED: Sequence[str] = ()"
#: More than any script has, in bytes.
_LARGEST: Final = 1 << 20
_LEAVE_OUT: Final = "or leave the scripts out with --no-drop-ins"


@dataclass(frozen=True)
class PluginFolder:
    """Whose home it is, by number, and the plugin's folder in it."""

    uid: int
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder.parents[len(FOLDER.parts) - 1]

    def record(self) -> str:
        """A line by which `recorded` finds this again."""
        return f"# The agent's scripts: {self.uid} {self.folder}"


@dataclass(frozen=True)
class Changes:
    """What became of the scripts: written, kept under another name, removed, put back."""

    written: Sequence[Path] = ()
    kept: Sequence[Path] = ()
    removed: Sequence[Path] = ()
    put_back: Sequence[Path] = ()


@dataclass(frozen=True)
class _Step:
    """A script that is written, and the name that it is to have. `kept`: what is there now gets this one."""

    path: Path
    part: Path
    kept: Path | None
    is_new: bool


def place_of(account: UserAccount) -> PluginFolder | None:
    """Where this user's scripts belong; None where she has no plugin, or a home that is not hers.

    Raises a `NimadError` when something stands there that is not to be replaced.
    """
    place = PluginFolder(account.uid, Path(account.home) / FOLDER)
    return place if _is_the_owners(place) and as_user(account, lambda: _is_free(place, account)) else None


def _is_free(place: PluginFolder, account: UserAccount) -> bool:
    """Whether the folder is there. Raises when something stands in it that is not to be replaced."""
    if not os.path.isdir(place.folder):  # noqa: PTH112 - one behind a folder that is closed to its user is none
        return False
    for name in NAMES:
        _check(place.folder / name, account)
    return True


def recorded(text: str) -> PluginFolder | None:
    """The place of which one of these lines tells."""
    found = re.search(r"^# The agent's scripts: (\d+) (.+)$", text, re.MULTILINE)
    return PluginFolder(int(found[1]), Path(found[2])) if found else None


def install(place: PluginFolder, program: Sequence[str]) -> Changes:
    """Put the scripts there, to call nimad by these words. Raises `CannotWriteError`, and has changed nothing then."""
    texts = {name: (Path(nimad.__file__).parent / "compat" / name).read_text(encoding="utf-8") for name in NAMES}
    done = as_user(account_of(str(place.uid)), lambda: _install(place, program, texts))
    return Changes(written=[Path(path) for path in done["written"]], kept=[Path(path) for path in done["kept"]])


def _install(place: PluginFolder, program: Sequence[str], texts: Mapping[str, str]) -> dict[str, list[str]]:
    try:
        steps = list(_steps(place.folder, program, texts))
        _take(steps)
    except OSError as error:
        for name in NAMES:
            with suppress(OSError):
                (place.folder / f".{name}.part").unlink(missing_ok=True)
        raise CannotWriteError(
            f"{error.filename or place.folder} cannot be written by its owner ({error.strerror}); make that "
            f"possible, {_LEAVE_OUT}"
        ) from error
    kept = [str(step.kept) for step in steps if step.kept is not None]
    return {"written": [str(step.path) for step in steps], "kept": kept}


def take_back(place: PluginFolder) -> Changes:
    """Remove the scripts that are ours, and put back what they took the place of."""
    if not _is_the_owners(place):
        return Changes()
    done = as_user(account_of(str(place.uid)), lambda: _take_back(place))
    return Changes(removed=[Path(path) for path in done["removed"]], put_back=[Path(path) for path in done["put_back"]])


def _take_back(place: PluginFolder) -> dict[str, list[str]]:
    removed, put_back = [], []
    for path in (place.folder / name for name in reversed(NAMES)):
        if (text := _read(path)) is None or not _is_ours(text):
            continue
        before = _named_in(text, path)
        if before is None:
            path.unlink()
            removed.append(str(path))
        else:
            before.replace(path)
            put_back.append(str(path))
    return {"removed": removed, "put_back": put_back}


def _is_the_owners(place: PluginFolder) -> bool:
    """Whether the home belongs to its user."""
    try:
        return place.home.stat().st_uid == place.uid
    except OSError:
        return False


def _check(path: Path, account: UserAccount) -> None:
    """Raise unless this is free, or a plain file of hers or of root's."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise NotAllowedError(f"{path} is a symbolic link, which setup does not replace; remove it, {_LEAVE_OUT}")
    if not stat.S_ISREG(status.st_mode):
        raise CannotWriteError(f"{path} is no plain file; move it away, {_LEAVE_OUT}")
    if status.st_uid not in (account.uid, 0):
        holder = rights.name_of(status.st_uid)
        raise NotAllowedError(f"{path} belongs to {holder}, and not to {account.name}; move it away, {_LEAVE_OUT}")


def _steps(folder: Path, program: Sequence[str], texts: Mapping[str, str]) -> Iterator[_Step]:
    """Write each script that is not there yet, beside its name."""
    for name in NAMES:
        path = folder / name
        there = _read(path)
        is_ours = there is not None and _is_ours(there)
        before = _named_in(there, path) if there is not None and is_ours else None
        kept = _backup(path) if os.path.lexists(path) and not is_ours else None
        text = _completed(texts[name], program, before or kept)
        if text != there:
            yield _Step(path, _write(path.with_name(f".{name}.part"), text), kept, is_new=there is None)


def _take(steps: Sequence[_Step]) -> None:
    """Give each written script its name, or leave all as it was."""
    done: list[_Step] = []
    try:
        for step in steps:
            if step.kept is not None:
                step.path.rename(step.kept)
            done.append(step)
            step.part.rename(step.path)
    except OSError:
        for step in done:
            if step.kept is not None:
                step.kept.replace(step.path)
            elif step.is_new:
                step.path.unlink(missing_ok=True)
        raise


def _completed(text: str, program: Sequence[str], before: Path | None) -> str:
    mark = f"{_MARK}{_PUTS_BACK}{before.name}\n" if before else f"{_MARK}\n"
    head, rest = text.split("\n", 1) if text.startswith("#!") else ("", text)
    line = _INSTALLED.replace("()", repr(tuple(program)))
    return f"{head}\n{mark}{rest}".lstrip("\n").replace(_INSTALLED, line)


def _is_ours(text: str) -> bool:
    return any(line.startswith(_MARK) for line in text.splitlines()[:2])


def _named_in(text: str, path: Path) -> Path | None:
    """What a script of ours took the place of, if that is still there."""
    lines = (line for line in text.splitlines()[:2] if line.startswith(_MARK + _PUTS_BACK))
    name = next(lines, "").removeprefix(_MARK + _PUTS_BACK)
    plain = name.startswith(f"{path.name}.backup-") and "/" not in name
    found = path.with_name(name) if plain else None
    return found if found is not None and found.is_file() and not found.is_symlink() else None


def _backup(path: Path) -> Path:
    return free_name(path.with_name(f"{path.name}.backup-{name_stamp()}"))


def _read(path: Path) -> str | None:
    """What a plain file holds; None where there is none."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return (
                file.read(_LARGEST).decode(errors="replace") if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
            )
    except OSError:
        return None


def _write(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fchmod(file.fileno(), 0o755 if text.startswith("#!") else 0o644)
        os.fsync(file.fileno())
    return path
