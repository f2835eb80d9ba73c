"""Work in a child process that has become another user, while root keeps its identity."""

import json
import os
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from nimad import errors
from nimad.errors import CannotWriteError, NimadError
from nimad.host import rights
from nimad.host.folders import ROOT
from nimad.host.rights import UserAccount

T = TypeVar("T")

#: Bytes of an answer.
_LARGEST_ANSWER: Final = 1 << 20


def as_user(account: UserAccount, work: Callable[[], T]) -> T:
    """What `work` returns, done by a child that is this user for good. It has to be what JSON can tell.

    Done by this process where it is not root's. Raises the `NimadError` that the work raised.
    """
    if os.geteuid() != ROOT or account.uid == ROOT:
        return work()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _do(account, work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = file.read(_LARGEST_ANSWER)
    os.waitpid(child, 0)
    try:
        answer = json.loads(told)
    except ValueError:
        raise CannotWriteError(f"the part that works as {account.name} ended without an answer") from None
    if "error" not in answer:
        result: T = answer["result"]
        return result
    kind = getattr(errors, str(answer["error"]), CannotWriteError)
    raise kind(answer["message"]) if issubclass(kind, NimadError) else CannotWriteError(answer["message"])


def _do(account: UserAccount, work: Callable[[], object], writer: int) -> NoReturn:
    """In the child: nothing of what the parent has open or buffered is touched."""
    try:
        rights.take_identity(account)
        os.chdir("/")
        answer = {"result": work()}
    except NimadError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - the parent has to hear of whatever it is
        answer = {"error": CannotWriteError.__name__, "message": f"{type(error).__name__}: {error}"}
    with os.fdopen(writer, "wb") as file:
        file.write(json.dumps(answer).encode())
    os._exit(0)
