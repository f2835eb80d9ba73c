"""The worker's process attributes: it dies with its parent, is killed first when memory runs out, and keeps stdout."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from nimad.host import malloc

_PR_SET_PDEATHSIG = 1
#: How much sooner than other programs the kernel ends a worker when memory runs out (0 to 1,000).
_OOM_SCORE = 800
#: A memory is private: what the engine creates is for its owner alone.
_UMASK = 0o077
#: The priority at which a worker takes what other programs leave: of the processor, by nice(2) and the scheduler's
#: idle class, and of the disk, by ioprio_set(2), whose number glibc does not know.
LOW = "low"
_NICEST = 19
#: By machine and bytes of a pointer: a 64-bit kernel may run 32-bit programs, whose calls have other numbers.
_IOPRIO_SET = {("x86_64", 8): 251, ("aarch64", 8): 30, ("aarch64", 4): 314, ("armv7l", 4): 314, ("armv6l", 4): 314}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13


def settle(parent: int, priority: str) -> TextIO:
    """Make this process a worker of `parent` (a PID) and return the stream for its one answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the line above could bind us to it
        sys.exit(1)
    with suppress(OSError):  # no Linux, or not allowed: a worker in the usual order is still a worker
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}\n", encoding="ascii")
    if priority == LOW:
        _yield_to_others(libc)
    malloc.keep_small()
    os.umask(_UMASK)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the supervisor's to answer
    return _private_stdout()


def _yield_to_others(libc: ctypes.CDLL) -> None:
    """Before the engine starts its threads, which take this over. What is not allowed is done without."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICEST)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if (number := _IOPRIO_SET.get((os.uname().machine, ctypes.sizeof(ctypes.c_void_p)))) is not None:
        libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


def _private_stdout() -> TextIO:
    """Keep the real stdout for the answer; whatever a library prints goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer
