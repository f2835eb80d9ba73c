"""Rights: the user as whom this program works. Root lends nothing.

- As a user: the system itself keeps us from the files of others.
- As root with `--user`: `become` that user for good, before anything is opened; then as above.
- As root without it: `become_owner`. The owner of the memory's folder is read once, by a descriptor, and this process
  becomes that user for good. From then on no name that the user changes can lead root anywhere.
- Root's own memory: only where root alone can change any component of the path (`nimad.host.folders`).

A process that imports nimad keeps its identity: `check_own` refuses, as root, a memory of another user.
"""

import ctypes
import os
import pwd
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nimad.errors import NotAllowedError, UsageError
from nimad.host import folders, root_helper
from nimad.host.folders import ROOT

name_of = folders.name_of
#: What a user of whom the system knows only the number has for a home, as in containers.
_NO_HOME = "/"
_LARGEST_ID = 2**32 - 2  # the number above means "leave as it is"

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 2, 38
#: Sets of capabilities that have to be empty (capabilities(7)): what a process may do, and pass on to a program.
_POWERS = re.compile(rb"^Cap(?:Prm|Eff|Amb):\s*0*[1-9a-f]", re.MULTILINE)


@dataclass(frozen=True)
class UserAccount:
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
    if os.geteuid() != ROOT:
        raise NotAllowedError(
            f"only root can run as {account.name}; put sudo before the command, or leave --user out to run as {_me()}"
        )
    take_identity(account)
    os.environ.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
    _check_reach(account.name)


def become_owner(place: Path, target: Path | None = None, told: Sequence[Path] = ()) -> bool:
    """As root, make this process one of the owner of the file `place`, for good; whether it became another.

    `target`: what is to be written; its folder has to be the owner's. `told`: log and metrics, which may stand in a
    folder of root's too: a helper opens them there. Raises `NotAllowedError` for a folder of a third user, and for
    root's own memory where others can change the path.
    """
    if os.geteuid() != ROOT:
        return False
    owner = folders.owner_of(place)
    if target is not None:
        _check_folder(target, owner, {owner})
    for each in told:
        _check_folder(each, owner, {owner, ROOT})
    if owner == ROOT:
        return False
    account = account_of(str(owner))
    root_helper.start([each for each in told if _holder(each.parent) == ROOT], (account.uid, account.gid))
    become(str(owner))
    return True


def check_own(place: Path, *written: Path) -> None:
    """Raise when root would work on a memory that is not root's alone, or write where it is not.

    No effect for any other user. A command has become the owner by now; a program that imports nimad has to do so.
    """
    if os.geteuid() != ROOT:
        return
    owner = folders.owner_of(place)
    if owner != ROOT:
        name = name_of(owner)
        raise NotAllowedError(
            f"{place} belongs to {name}, and root does not work on it; run it with --user {name}, or, in a program, "
            f"call nimad.become({name!r}) first"
        )
    for each in written:
        _check_folder(each, ROOT, {ROOT})


def take_identity(account: UserAccount) -> None:
    """Change every id of this process for good, and give up all capabilities. Raises `NotAllowedError`."""
    try:
        with _until_its_parent_ends():
            _change(account)
    except OSError as error:
        raise NotAllowedError(
            f"root may not become {account.name} here ({error.strerror}); let {account.name} run the command"
        ) from None


def account_of(user: str) -> UserAccount:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if not (user.isascii() and user.isdecimal() and int(user) <= _LARGEST_ID):
            raise UsageError(f"--user: there is no user {user!r} here; name another, or give a number") from None
        try:
            entry = pwd.getpwuid(int(user))
        except KeyError:  # in a container, files often belong to a number that only the host has a name for
            return UserAccount(user, int(user), int(user))
    return UserAccount(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, known=True)


def _change(account: UserAccount) -> None:
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


def _can_go_back(account: UserAccount) -> bool:
    if account.uid == ROOT:
        return False
    try:
        os.setresuid(-1, ROOT, -1)
    except PermissionError:
        return bool(_POWERS.search(Path("/proc/self/status").read_bytes()))  # our library may be closed by now
    return True


def _check_reach(name: str) -> None:
    """Raise when this user cannot run our program: each worker starts it anew."""
    for path, access in ((sys.executable, os.X_OK), (os.__file__, os.R_OK), (__file__, os.R_OK)):
        if not os.access(path, access):
            raise NotAllowedError(
                f"{name} cannot reach {path}, a part of this program; install nimad where every user may read it, "
                "such as /opt/nimad"
            )


def _check_folder(place: Path, owner: int, allowed: set[int]) -> None:
    """Raise when a file would stand in a folder of a third user; root's own has to be root's alone."""
    holder = _holder(place.parent)
    if holder is None:
        return  # whoever writes it says so
    if holder not in allowed:
        name = name_of(owner or holder)
        raise NotAllowedError(
            f"{place} would stand in a folder of {name_of(holder)}, and the memory belongs to {name_of(owner)}; "
            f"as root, run it with --user {name}, or choose another place"
        )
    if holder == ROOT:
        folders.check_roots_alone(place.parent, shared=owner != ROOT)


def _holder(folder: Path) -> int | None:
    return folder.stat().st_uid if folder.is_dir() else None


# Other people's programs


def may_run(program: Path) -> bool:
    """Whether to run a program, or load a library: as root, only what root alone can have written."""
    return os.geteuid() != ROOT or all(folders.is_roots_alone(path) for path in (program, program.resolve()))


def _me() -> str:
    return name_of(os.geteuid())


# The kernel's side


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@contextmanager
def _until_its_parent_ends() -> Iterator[None]:
    """Keep the signal that a process gets when its parent dies: the kernel forgets it whenever rights change."""
    parent, number = os.getppid(), ctypes.c_int()
    _libc().prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    try:
        yield
    finally:
        if number.value:
            _libc().prctl(_PR_SET_PDEATHSIG, number.value, 0, 0, 0)
            if os.getppid() != parent:  # it died in between
                os.kill(os.getpid(), number.value)
