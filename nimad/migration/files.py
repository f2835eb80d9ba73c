"""The files beside the target: their names, and how one is replaced, moved aside or locked."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nimad.disk import pieces, sync
from nimad.errors import CannotWriteError, NotAllowedError, RefusedError


@dataclass(frozen=True)
class Files:
    """Every path that a run with this target may write."""

    target: Path

    @property
    def staging(self) -> Path:
        return self._beside(".migrating")

    @property
    def compacted(self) -> Path:
        return self._beside(".migrating.compact")

    @property
    def ledger(self) -> Path:
        return self._beside(".migrating.ledger")

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
    def lock(self) -> Path:
        return self._beside(".lock")

    def backup(self, moment: float) -> Path:
        """A free name for a file in the way; the time is local, as in the log."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(moment))
        names = (self._beside(f".backup-{stamp}{end}") for end in ("", *(f"-{n}" for n in range(2, 1_000))))
        return next(name for name in names if not os.path.lexists(name))

    def _beside(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)


def check_folder(target: Path) -> None:
    """Raise when no file can be made beside `target`."""
    folder = target.parent
    if not folder.is_dir():
        raise CannotWriteError(f"there is no folder {folder} for the target; make it with: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise CannotWriteError(f"{folder} cannot be written to by this user; choose another place with --target")


def refuse_links(files: Files) -> None:
    """Raise when a symbolic link stands where we are about to write a file of ours."""
    for path in (
        *pieces(files.staging),
        *(files.staging, files.compacted, files.ledger, files.quarantining),
        *(files.state, files.quarantine, files.lock),
    ):
        if path.is_symlink():
            raise NotAllowedError(f"{path} is a symbolic link, which this program does not follow; remove it")


def move_aside(path: Path, to: Path) -> None:
    """Give a file, and what the engine left beside it, another name."""
    for piece, name in zip(pieces(path), pieces(to), strict=True):
        if os.path.lexists(piece):
            piece.rename(name)


def replace_text(path: Path, text: str) -> None:
    """Put a file in place whole: a temporary name, synced, renamed."""
    replace_bytes(path, [text.encode()])


def replace_bytes(path: Path, parts: "list[bytes] | Iterator[bytes]") -> None:
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in parts:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def locked(files: Files) -> Iterator[None]:
    """Keep a second run out. The lock dies with its holder, however that ends.

    Raises `RefusedError` naming the holder's PID when another run has it.
    """
    descriptor = _take(files.lock)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        files.lock.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise RefusedError(
                f"another nimad (PID {holder}) is already working on this target; let it finish, or stop it with: "
                f"kill {holder}"
            ) from None
        # Whoever held it may have removed the name between our open and our lock: then lock the new file.
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)
