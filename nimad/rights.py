"""Rights: whose files we make, and where root does not go.

Three ways to run, and what the system itself then keeps us from:

- As a user: every file is hers, and she can reach no other's.
- As root with `--user`: `become` that user for good, before anything is opened; then as above.
- As root without it: work for the memory's owner. `working_for` lends this thread her file-system identity
  (setfsuid(2)), so every file is hers from its first byte, those of the engine too, and no path and no link leads to a
  place that she could not write to herself. No chown by name follows, which she could turn against us. Of root's powers
  two come back: to read anything, because this program may lie in a folder that is closed to her, and to write, where
  the folder is root's own.
"""

import ctypes
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.errors import NotAllowedError, UsageError

_ROOT = 0
#: What a user of whom the system knows only the number has for a home, as in containers.
_NO_HOME = "/"
_LARGEST_ID = 2**32 - 2  # the number above means "leave as it is"

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 2, 38
_CAPABILITY_VERSION = 0x20080522
#: Of a thread's capabilities (capabilities(7)): to write to any file, and to read any file and pass any folder.
_MAY_WRITE, _MAY_READ = 1 << 1, 1 << 2
#: All those over files, which come and go with root's file-system identity.
_OVER_FILES = 0b11111 | 1 << 9 | 1 << 27


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    home: str = _NO_HOME
    known: bool = False  # to the system, by more than its number


# For good


def become(user: str) -> None:
    """Make this process one of `user`, given by name or number, for good. Nothing to do when it is already.

    Raises `UsageError` when there is no such user, and `NotAllowedError` when only root could do it.
    """
    account = account_of(user)
    if set(os.getresuid()) == {account.uid}:
        return
    if os.geteuid() != _ROOT:
        raise NotAllowedError(
            f"only root can run as {account.name}; put sudo before the command, or leave --user out to run as {_me()}"
        )
    try:
        with _until_its_parent_ends():
            _change(account)
    except OSError as error:
        raise NotAllowedError(
            f"root may not become {account.name} here ({error.strerror}); let {account.name} run the command"
        ) from None
    os.environ.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
    _check_reach(account.name)


def account_of(user: str) -> Account:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if not (user.isascii() and user.isdecimal() and int(user) <= _LARGEST_ID):
            raise UsageError(f"--user: there is no user {user!r} here; name another, or give a number") from None
        try:
            entry = pwd.getpwuid(int(user))
        except KeyError:  # in a container, files often belong to a number that only the host has a name for
            return Account(user, int(user), int(user))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, known=True)


def _change(account: Account) -> None:
    if account.known:
        os.initgroups(account.name, account.gid)
    else:
        os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if set(os.getresuid()) != {account.uid} or set(os.getresgid()) != {account.gid} or _can_go_back(account):
        raise PermissionError(0, "its rights could be regained")  # whoever started us has set them so (securebits)
    # Programs with a set-user-id bit stay shut, for us and for every worker.
    _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _can_go_back(account: Account) -> bool:
    if account.uid == _ROOT:
        return False
    try:
        os.setresuid(-1, _ROOT, -1)
    except PermissionError:
        return False
    return True


def _check_reach(name: str) -> None:
    """Raise when this user cannot run our program: each worker starts it anew."""
    for path, access in ((sys.executable, os.X_OK), (os.__file__, os.R_OK), (__file__, os.R_OK)):
        if not os.access(path, access):
            raise NotAllowedError(
                f"{name} cannot reach {path}, a part of this program; install nimad where every user may read it, "
                "such as /opt/nimad"
            )


# For a while


@contextmanager
def working_for(source: Path, *places: Path) -> Iterator[None]:
    """While it lasts, this thread, and each that it starts, makes files as the owner of `source` would.

    `places` are files to be written; in root's own folders among them she would be refused, and is not.
    No effect unless root calls it and the memory is another's.
    """
    before = _lent()
    work_for(source, *places)
    try:
        yield
    finally:
        if _lent() != before:
            _lend(before)


@contextmanager
def own() -> Iterator[None]:
    """While it lasts, the rights that this process has by itself: for a caller's code in the middle of our work."""
    before = _lent()
    if before.uid == os.geteuid():
        yield
        return
    _lend(_Lent(os.geteuid(), os.getegid(), before.effective | _OVER_FILES))
    try:
        yield
    finally:
        _lend(before)


def work_for(source: Path, *places: Path) -> None:
    """As `working_for`, to the end of this thread; what a worker does with its job."""
    owner = source.stat()
    if os.geteuid() != _ROOT or owner.st_uid == _ROOT:
        return
    powers = _MAY_READ
    if any(_only_root_writes_in(place.parent) for place in places):
        powers |= _MAY_WRITE
    _lend(_Lent(owner.st_uid, owner.st_gid, (_lent().effective & ~_OVER_FILES) | powers))
    if _lent().uid != owner.st_uid:
        name = name_of(owner.st_uid)
        raise NotAllowedError(f"root may not make files for {name} here; add --user {name}, or let {name} run it")


def refuse_foreign_folders(source: Path, *places: Path) -> None:
    """Raise when one of the files `places` would stand in a folder neither root's nor of the memory's owner.

    A configuration file or a variable may say so; as root, nothing else would stop us.
    """
    if os.geteuid() != _ROOT:
        return
    owner = source.stat().st_uid
    for place in places:
        if not place.parent.is_dir():
            continue
        holder = place.parent.stat().st_uid
        if holder not in (owner, _ROOT):
            raise NotAllowedError(
                f"{place} would stand in a folder of {name_of(holder)}, and the memory belongs to {name_of(owner)}; "
                f"as root, run it with --user {name_of(owner or holder)}, or choose another place"
            )


# Other people's programs


def of_owner(source: Path) -> dict[str, Any]:
    """Arguments for `Popen` with which a program of the memory's owner runs as her and not as root."""
    owner = source.stat().st_uid
    if os.geteuid() != _ROOT or owner == _ROOT:
        return {}
    account = account_of(str(owner))
    groups = os.getgrouplist(account.name, account.gid) if account.known else []
    return {"user": account.uid, "group": account.gid, "extra_groups": groups}


def home_of_owner(source: Path) -> Path:
    """The home of whoever the memory belongs to, as far as it is ours to act for her."""
    if not of_owner(source):
        return Path.home()
    return Path(account_of(str(source.stat().st_uid)).home)


def may_run(program: Path, source: Path) -> bool:
    """Whether to run a program: as root, for a memory of root's own, only what nobody else could have written."""
    if os.geteuid() != _ROOT or of_owner(source):
        return True
    return all(_only_root_writes_to(path) for path in (program, program.resolve()))


def is_trusted(library: Path) -> bool:
    """Whether to load a library into this process's kind: as root, only what nobody else could have written."""
    return os.geteuid() != _ROOT or all(_only_root_writes_to(path) for path in (library, library.resolve()))


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _me() -> str:
    return name_of(os.geteuid())


def _only_root_writes_to(program: Path) -> bool:
    status = program.stat()
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == _ROOT and not writable and _only_root_writes_in(program.parent)


def _only_root_writes_in(folder: Path) -> bool:
    """Whether a folder is root's and nobody else can put anything in it, or another folder in its place."""
    try:
        folder = folder.resolve(strict=True)
        return not folder.stat().st_mode & stat.S_IWOTH and all(
            each.stat().st_uid == _ROOT for each in (folder, *folder.parents)
        )
    except OSError:
        return False


# The kernel's side


@dataclass(frozen=True)
class _Lent:
    """Whose files a thread makes, and its capabilities in effect, the first 32 of them."""

    uid: int
    gid: int
    effective: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _capabilities() -> "ctypes.Array[_Sets]":
    sets = (_Sets * 2)()
    _libc().capget(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), sets)
    return sets


def _lent() -> _Lent:
    nobody = ctypes.c_uint32(-1)  # refused, and what stands is returned
    uid, gid = _libc().setfsuid(nobody) & 0xFFFF_FFFF, _libc().setfsgid(nobody) & 0xFFFF_FFFF
    return _Lent(uid, gid, int(_capabilities()[0].effective))


def _lend(rights: _Lent) -> None:
    """Neither call says whether it succeeded; `_lent` does."""
    with _until_its_parent_ends():
        _libc().setfsgid(ctypes.c_uint32(rights.gid))
        _libc().setfsuid(ctypes.c_uint32(rights.uid))
        sets = _capabilities()
        sets[0].effective = rights.effective & sets[0].permitted
        _libc().capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), sets)


@contextmanager
def _until_its_parent_ends() -> Iterator[None]:
    """Keep the signal that a worker gets when its parent dies: the kernel forgets it whenever rights change."""
    parent, number = os.getppid(), ctypes.c_int()
    _libc().prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    try:
        yield
    finally:
        if number.value:
            _libc().prctl(_PR_SET_PDEATHSIG, number.value, 0, 0, 0)
            if os.getppid() != parent:  # it died in between
                os.kill(os.getpid(), number.value)
