"""The files beside the target: their names, and how they are replaced, moved aside and locked."""

import contextlib
import errno
import fcntl
import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nimad.config import Settings
from nimad.errors import CannotWriteError, LockedError, NotAllowedError, RefusedError
from nimad.host import filesystems, machine, rights
from nimad.host.disk import READ_SUFFIXES, export_folder, leads_to, name_stamp, pieces, relative, sqlite_pieces, sync
from nimad.host.folders import ROOT

#: Bytes of a lock file that are read: a PID and the end of its line.
_PID_BYTES = 32


@dataclass(frozen=True)
class Files:
    """Every path that a run with this target may write."""

    target: Path
    also: tuple[str, ...] = ()  # further names of the target, as seen from its folder

    @classmethod
    def of(cls, settings: Settings, also: tuple[str, ...] = ()) -> "Files":
        """The files of the target that is asked for: with its second name, those that are asked for, and others."""
        link = [] if settings.link is None else [relative(settings.link, settings.target.parent)]
        wanted = also if settings.also is None else settings.also
        names = dict.fromkeys([*link, *wanted])
        return cls(settings.target, tuple(name for name in names if name != settings.target.name))

    @property
    def links(self) -> list[Path]:
        """The further names."""
        return [self.named(name) for name in self.also]

    def named(self, name: str) -> Path:
        """A further name, as it stands in settings and in the state file, as a path."""
        if "/" not in name:
            return self.target.with_name(name)
        return Path(os.path.normpath(Path(os.path.realpath(self.target.parent), name)))

    def is_link(self, path: Path) -> bool:
        """Whether a path is a link to the target."""
        return leads_to(path, self.target)

    @property
    def staging(self) -> Path:
        return self._beside(".migrating")

    @property
    def compacted(self) -> Path:
        return self._beside(".migrating.compact")

    @property
    def indexing(self) -> Path:
        """A copy in which the vector index is made."""
        return self._beside(".migrating.index")

    @property
    def trial(self) -> Path:
        """A file for rows on trial; an engine's file that is thrown away."""
        return self._beside(".migrating.trial")

    @property
    def salvaged(self) -> Path:
        """What could be read of a damaged source; an SQLite file."""
        return self._beside(".migrating.salvaged")

    @property
    def ledger(self) -> Path:
        return self._beside(".migrating.ledger")

    @property
    def followed(self) -> Path:
        """The ledger of the target that is there: by it late arrivals are found."""
        return self._beside(".ledger")

    @property
    def state(self) -> Path:
        return self._beside(".state.json")

    @property
    def quarantine(self) -> Path:
        return self._beside(".quarantine.jsonl")

    @property
    def quarantining(self) -> Path:
        """The quarantine of a target that is being built: the one above belongs to the target that is there."""
        return self._beside(".migrating.quarantine.jsonl")

    @property
    def conflicts(self) -> Path:
        """Values that gave way where SQLite and the agent both changed one."""
        return self._beside(".conflicts.jsonl")

    @property
    def own(self) -> Path:
        """What the target that gives way alone holds, until the new one has it."""
        return self._beside(".migrating.own.jsonl")

    @property
    def runs(self) -> Path:
        """The record of the runs for this target: what each did, batch by batch, for people."""
        return self._beside(".runs.jsonl")

    @property
    def lock(self) -> Path:
        return self._beside(".lock")

    @property
    def paused(self) -> Path:
        """While it stands, no run for this target begins anything."""
        return self._beside(".paused")

    def written(self) -> list[Path]:
        """Names of files that are opened for writing as they stand."""
        engines = (
            piece for file in (self.staging, self.compacted, self.indexing, self.trial) for piece in pieces(file)
        )
        return [*engines, *sqlite_pieces(self.salvaged), *self._appended(), self.lock]

    def _appended(self) -> list[Path]:
        return [self.ledger, self.followed, self.quarantining, self.conflicts, self.runs]

    def replaced(self) -> list[Path]:
        """Names that a new file is renamed to: what stood there is read, and never written to."""
        return [self.state, self.quarantine]

    def made_anew(self) -> list[Path]:
        """Names where nothing is kept: what stands there is thrown away first."""
        return [*self._temporaries(), export_folder(self.compacted)]

    def discard_temporaries(self) -> None:
        """Remove what a run left that was killed between writing one of these and renaming it."""
        for path in self._temporaries():
            path.unlink(missing_ok=True)

    def _temporaries(self) -> list[Path]:
        return [self.own, *(_temporary(path) for path in (self.state, self.quarantine, self.quarantining, self.runs))]

    def backup(self, moment: float) -> Path:
        """A free name for a file in the way; the time is local, as in the log."""
        stamp = name_stamp(moment)
        return free_name(self._beside(f".backup-{stamp}"))

    def record(self, moment: float) -> Path:
        """A free name for what a rollback carries back."""
        stamp = name_stamp(moment)
        return free_name(self._beside(f".rollback-{stamp}.jsonl"))

    def move_belongings(self, backup: Path, *more: Path) -> None:
        """Give what tells of the target's values the name of its backup, and with it `more` that belongs to it."""
        for path in (self.quarantine, self.conflicts, *more):
            if path.exists():
                path.rename(backup.with_name(backup.name + path.name.removeprefix(self.target.name)))

    def _beside(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)


def check_folder(target: Path) -> None:
    """Raise when no file can be made beside `target`."""
    folder = target.parent
    if not folder.is_dir():
        raise CannotWriteError(
            f"there is no folder {folder} for the target; make it with: mkdir -p {shlex.quote(str(folder))}"
        )
    if not os.access(folder, os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise CannotWriteError(f"{folder} cannot be written to by this user; choose another place with --target")


def check_size(folder: Path, size: int) -> None:
    """Raise when the folder's file system holds no file of so many bytes."""
    there = filesystems.of(folder)
    if there.largest_file and size > there.largest_file:
        raise CannotWriteError(
            f"the target may come to {size // 10**6} MB, and {there.name} holds no file of more than "
            f"{there.largest_file // 10**6} MB; choose a place on another file system with --target"
        )


def not_for_us(path: Path, why: str) -> NotAllowedError:
    """What to raise for a file that this user may not open; it is not in the way, and nothing is wrong with it."""
    try:
        owner = rights.name_of(path.stat().st_uid)
    except OSError:  # the folder is closed to us too
        owner = ""
    return NotAllowedError(f"{path} may not be opened by this user ({why}); run it as {owner or 'its owner'}")


def refuse_links(files: Files, log_file: Path | None = None) -> None:
    """Raise when a symbolic link stands where we are about to write a file of ours."""
    log = [] if log_file is None else [log_file]
    for path in (*files.written(), *files.replaced(), *files.made_anew(), *log):
        if path.is_symlink():
            raise NotAllowedError(f"{path} is a symbolic link, which this program does not follow; remove it")


def check_plain(target: Path) -> None:
    """Raise when what has the target's name is a folder, which may hold the source itself, a pipe or a device.

    `--replace` would rename it, and to open a pipe is to wait for ever.
    """
    if target.exists() and not target.is_file():
        raise _not_plain(target)


def _not_plain(path: Path) -> CannotWriteError:
    return CannotWriteError(f"{path} is no plain file; move it away, or choose another name with --target")


def check_names(files: Files, source: Path, log_file: Path) -> None:
    """Raise unless each file that stands at a name of ours is a plain one, of one name, and nobody else's.

    A file of another user's could be read by us, and believed. Root's own is left to be replaced, or for the log, but
    not to become part of a target that its owner could not open then.
    """
    refuse_links(files, log_file)
    for path in (*files.written(), *files.replaced(), log_file):
        try:
            status = path.lstat()
        except OSError:
            continue
        if path != log_file and not stat.S_ISREG(status.st_mode):
            raise _not_plain(path)
        if path not in files.replaced() and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise NotAllowedError(f"{path} is another file's second name (a hard link); remove this name")
        _check_owner(path, status.st_uid, source, roots_too=path == log_file or path in files.replaced())


def _check_owner(path: Path, holder: int, source: Path, *, roots_too: bool) -> None:
    if holder == os.geteuid() or (roots_too and holder == ROOT):
        return
    me, name = rights.name_of(os.geteuid()), rights.name_of(source.stat().st_uid)
    cure = f"give it to {me} with: chown {me} {shlex.quote(str(path))}" if holder == ROOT else "move it away"
    raise NotAllowedError(f"{path} belongs to {rights.name_of(holder)}, and the memory to {name}; {cure}")


def free_name(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that does not exist."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1_000)))
    return next(name for name in names if not os.path.lexists(name))


def set_logs_aside(path: Path) -> list[Path]:
    """Give whatever the engine would read beside a file a dated name, which it does not read; return those names."""
    stamp = name_stamp()
    logs = [log for suffix in READ_SUFFIXES if os.path.lexists(log := path.with_name(path.name + suffix))]
    moved = [log.rename(free_name(log.with_name(f"{log.name}.{stamp}"))) for log in logs]
    sync(path.parent)
    return moved


def move_aside(path: Path, to: Path) -> None:
    """Give a file, and what the engine left beside it, another name."""
    # The file itself goes last: what lies beside a name without a file is thrown away.
    for piece, name in reversed(list(zip(pieces(path), pieces(to), strict=True))):
        if os.path.lexists(piece):
            piece.rename(name)


def replace_text(path: Path, text: str) -> None:
    """Put a file in place whole: a temporary name, synced, renamed."""
    replace_bytes(path, [text.encode()])


def replace_bytes(path: Path, parts: "list[bytes] | Iterator[bytes]", mode: int = 0o600) -> None:
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever is masked
            for piece in parts:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


@contextlib.contextmanager
def held(target: Path, *, readers: bool = False) -> Iterator[IO[bytes]]:
    """Keep the target from being opened, by the lock that the engine itself takes; with `readers`, for writing only.

    Of a file that this user may only read, writers alone are kept out. Whoever opens and closes the file once more in
    this process gives the lock up. Raises `RefusedError` where another program has it open.
    """
    may_write = os.access(target, os.W_OK)
    with target.open("r+b" if may_write else "rb") as file:
        try:
            fcntl.lockf(file, (fcntl.LOCK_EX if may_write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            holder = machine.holder_of(target) or "unknown"
            raise RefusedError(f"{target} is open in another program (PID {holder}); stop that first") from None
        if readers and may_write:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield file


@contextlib.contextmanager
def locked(files: Files) -> Iterator[None]:
    """Keep a second run out. The lock dies with its holder, however that ends.

    Raises `RefusedError` naming the holder's PID when another run has it.
    """
    descriptor = _take(files.lock)
    try:
        _sign(descriptor, files.lock)
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder that became read-only: the lock itself goes with its descriptor
            files.lock.unlink(missing_ok=True)
        os.close(descriptor)


def _sign(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise _no_room(path, error) from error


def _no_room(path: Path, error: OSError) -> Exception:
    """What to raise when not even a lock file fits: a run that has not begun has nothing to go on with."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return CannotWriteError(
        f"{path.parent} has no room for a file ({error.strerror}); make room, or choose another place with --target"
    )


def _taken(holder: int | None) -> LockedError:
    """`holder`: by the kernel's list, or by what is written in the file, which its user may edit."""
    if holder is None:
        return LockedError("another nimad is already working on this target; let it finish")
    return LockedError(
        f"another nimad (PID {holder}) is already working on this target; let it finish, or stop it with: kill {holder}"
    )


def _take(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _no_room(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            signed = os.read(descriptor, _PID_BYTES).decode(errors="replace").strip()
            os.close(descriptor)
            pid = int(signed) if re.fullmatch(r"[0-9]{1,10}", signed) else None
            raise _taken(machine.holder_of(path) or pid) from None
        # Whoever held it may have removed the name between our open and our lock: then lock the new file.
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)
