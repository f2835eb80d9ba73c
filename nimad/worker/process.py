"""The worker as a process: dies with its parent, goes first when memory ends, keeps stdout for its answer."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_PR_SET_PDEATHSIG = 1
#: How much sooner than other programs the kernel ends a worker when memory runs out (0 to 1,000).
_OOM_SCORE = 800
#: A memory is private: what the engine creates is for its owner alone.
_UMASK = 0o077


def settle(parent: int) -> TextIO:
    """Make this process a worker of `parent` (a PID) and return the stream for its one answer."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the line above could bind us to it
        sys.exit(1)
    with suppress(OSError):  # no Linux, or not allowed: a worker in the usual order is still a worker
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}\n", encoding="ascii")
    os.umask(_UMASK)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the supervisor's to answer
    return _private_stdout()


def _private_stdout() -> TextIO:
    """Keep the real stdout for the answer; whatever a library prints goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer
