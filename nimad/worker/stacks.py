"""Stack traces of a crashing worker on stderr: all Python threads, then the native stack.

From Python 3.14 on, `faulthandler` writes both. Before, it writes the Python stacks, puts back the handler that it
found, and raises the signal again; that handler is ours here, and has glibc write the native stack.

Ours is Python code and needs the GIL, which may never come: the engine keeps it while it closes a database, and waits
for its own threads. So a small process watches the worker: it sees in /proc that a signal has been taken, because
each of our handlers is good for one time only, and sends it again to a worker that is not dead soon after.
"""

import atexit
import ctypes
import faulthandler
import mmap
import os
import re
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

#: The signals of a crash: those that `faulthandler` handles.
_FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
#: Seconds between two looks of the watcher, and those that a crashed worker has for its native stack.
_LOOK_S = 0.5
_GRACE_S = 1.5
#: Frames that are written, at most.
_DEPTH = 128
_HEADING = b"\nNative stack of the thread that got the signal (most recent call first, from its handlers on):\n"
#: Bytes of stack for handlers on the main thread, whose own may be full. `faulthandler` has 16 KiB; 12 were used.
_HANDLER_STACK = 256 * 1024
#: More files than a worker has open at its start.
_FILES = 1024
_PR_SET_PDEATHSIG = 1

_kept: list[Any] = []  # what C has pointers to


def install() -> None:
    """Have a crash leave its stacks on stderr, and still end this process by the signal itself, within seconds.

    To be called while there is one thread, and before the engine comes.
    """
    # A core would be a copy of the memory that nobody guards. The limit is 1 because a kernel that pipes cores to a
    # program (systemd-coredump, apport) does so at any other limit, 0 too (core(5), fs/coredump.c); no file is written
    # at 1 either. PR_SET_DUMPABLE would also do, but closes /proc/PID to the supervisor and to a debugger.
    with suppress(ValueError, OSError):  # it is 0, and not ours to raise
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    faulthandler.enable(2)
    if sys.version_info < (3, 14):
        with suppress(AttributeError, OSError, MemoryError):  # no glibc; no process to be had; no memory for code
            _add_native_stack()


def _add_native_stack() -> None:
    libc = ctypes.PyDLL(None)  # its calls keep the GIL: what is held need not be waited for
    backtrace, write_symbols, write = libc.backtrace, libc.backtrace_symbols_fd, libc.write
    frames = (ctypes.c_void_p * _DEPTH)()
    backtrace(frames, _DEPTH)  # the first call loads a library: not in a crash

    def show(number: int) -> None:
        depth = backtrace(frames, _DEPTH)
        write(2, _HEADING, len(_HEADING))
        write_symbols(frames, depth, 2)
        signal.raise_signal(number)

    handler, stack = ctypes.CFUNCTYPE(None, ctypes.c_int)(show), mmap.mmap(-1, _HANDLER_STACK)
    _kept.extend((handler, stack))
    _set_handlers(libc, handler)
    address = ctypes.addressof(ctypes.c_char.from_buffer(stack))
    libc.sigaltstack((ctypes.c_size_t * 3)(address, 0, _HANDLER_STACK), None)
    worker = os.getpid()
    try:
        watcher = os.fork()
    except OSError:
        _set_handlers(libc, None)
        raise
    if watcher == 0:
        _watch(worker)
    atexit.register(_remove, libc, watcher)


def _set_handlers(libc: ctypes.PyDLL, handler: Any) -> None:
    """Set what comes after `faulthandler`; None is the signal's own action. Each is forgotten once it is called."""
    faulthandler.disable()
    for number in _FATAL:
        libc.sysv_signal(number, handler)
    faulthandler.enable(2)


def _watch(worker: int) -> NoReturn:
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.closerange(0, _FILES)  # the supervisor reads the worker's streams to their ends
        while os.getppid() == worker:
            time.sleep(_LOOK_S)
            for number in _taken(worker):
                time.sleep(_GRACE_S)
                os.kill(worker, number)
    finally:
        os._exit(0)


def _taken(worker: int) -> list[int]:
    status = Path(f"/proc/{worker}/status").read_text(encoding="ascii", errors="replace")
    handled = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    mask = int(handled[1], 16) if handled else -1
    return [number for number in _FATAL if not mask >> (number - 1) & 1]


def _remove(libc: ctypes.PyDLL, watcher: int) -> None:
    """Before Python ends: a handler must not outlive it, and a watcher not be left to a PID 1 that reaps nobody."""
    with suppress(OSError):
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)
    _set_handlers(libc, None)
