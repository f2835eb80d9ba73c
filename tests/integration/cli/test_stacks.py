"""A worker that crashes leaves its stacks on stderr, and dies of the very signal, soon, whoever has the GIL.

Real processes, crashing for real: in Python, in C, in threads that Python does not know, inside the engine.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Seconds from a crash to the end: two for a worker that cannot get the GIL, the others for a busy machine.
SOON_S = 4.0
#: Seconds until what a script has started is where it will be when the signal comes.
SETTLED_S = 0.2
#: Frames of a native stack that says something: those of the handlers are about fifteen.
FRAMES = 18
FRAME = re.compile(r"^(\S+\(.*\)\[0x|  Binary file )[^\n]*$", re.MULTILINE)
HAS_NATIVE = sys.version_info >= (3, 14) or hasattr(ctypes.CDLL(None), "backtrace")

START = """
import ctypes, os, resource, signal, sys, threading, time
from nimad.worker import stacks

free, holding = ctypes.CDLL(None), ctypes.PyDLL(None)  # calls that let the GIL go, and calls that keep it
NOWHERE = ctypes.c_void_p(8)

def native_thread(function):
    "A thread that Python knows nothing of; the GIL is kept while it is started."
    code = ctypes.cast(function, ctypes.c_void_p)
    holding.pthread_create(ctypes.byref(ctypes.c_ulong()), None, code, None)

def query(*crash):
    "Minutes in the engine, during which a thread does `crash`."
    import ladybug
    database = ladybug.Database(":memory:", buffer_pool_size=64 << 20, max_db_size=1 << 30)
    connection = ladybug.Connection(database, num_threads=2)
    if crash:
        threading.Timer(SETTLED_S, crash[0], crash[1:]).start()
    say_ready()
    connection.execute("UNWIND range(1, 100000) AS a UNWIND range(1, 100000) AS b RETURN sum(a * b)")

def say_ready():
    print(time.monotonic(), flush=True)

""".replace("SETTLED_S", str(SETTLED_S))


@dataclass(frozen=True)
class Death:
    signal: int
    seconds: float
    errors: str

    @property
    def frames(self) -> int:
        return len(FRAME.findall(self.errors))


def run(folder: Path, script: str, *, send: int = 0, install: str = "stacks.install()") -> Death:
    """Let `script` run to its end; `send` it a signal once it has said that it is ready."""
    program = f"{START}\n{install}\n{script}\n"
    with subprocess.Popen(
        [sys.executable, "-P", "-X", "faulthandler", "-c", program],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            began = float(process.stdout.readline() or "nan")
            if send:
                time.sleep(SETTLED_S)
                began = time.monotonic()
                process.send_signal(send)
            _, errors = process.communicate(timeout=3 * SOON_S)
        finally:
            process.kill()
    assert not list(folder.glob("core*"))
    return Death(-process.returncode, time.monotonic() - began, errors)


def assert_told(death: Death, number: int, *words: str, native: bool = HAS_NATIVE) -> None:
    assert death.signal == number, death.errors
    assert death.seconds < SOON_S
    assert death.errors.count("Fatal Python error: ") == 1, death.errors
    assert "hread 0x" in death.errors
    for word in words:
        assert word in death.errors
    assert (death.frames >= FRAMES) == native, death.errors


# A crash of one thread.


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT])
def test_each_fatal_signal_leaves_both_stacks(tmp_path: Path, number: int) -> None:
    death = run(tmp_path, f"def here():\n  say_ready()\n  signal.raise_signal({int(number)})\nhere()")
    assert_told(death, number, "in here")


def test_abort_and_a_null_pointer_leave_both_stacks(tmp_path: Path) -> None:
    assert_told(run(tmp_path, "say_ready(); os.abort()"), signal.SIGABRT, "abort")
    assert_told(run(tmp_path, "say_ready(); ctypes.string_at(0)"), signal.SIGSEGV, "in string_at")


def test_a_full_stack_leaves_both_stacks(tmp_path: Path) -> None:
    """C that calls Python that calls C: no recursion limit stops it."""
    death = run(
        tmp_path,
        "sys.setrecursionlimit(10**9)\n"
        "def deeper(a, b):\n  holding.qsort(pair, 2, 4, again)\n  return 0\n"
        "pair = (ctypes.c_int * 2)()\n"
        "again = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(deeper)\n"
        "say_ready(); deeper(0, 0)",
    )
    assert_told(death, signal.SIGSEGV, "in deeper", "qsort")


def test_an_abort_of_glibc_leaves_both_stacks(tmp_path: Path) -> None:
    script = "block = ctypes.c_void_p(free.malloc(70_000))\nsay_ready(); free.free(block); free.free(block)"
    assert_told(run(tmp_path, f"free.malloc.restype = ctypes.c_void_p\n{script}"), signal.SIGABRT, "double free")


# A crash of one thread while another is in the engine.


def test_a_python_thread_crashes_during_a_query(tmp_path: Path) -> None:
    assert_told(run(tmp_path, "query(ctypes.string_at, 0)"), signal.SIGSEGV, "in string_at", "in execute")


def test_a_thread_that_holds_the_gil_crashes_during_a_query(tmp_path: Path) -> None:
    assert_told(run(tmp_path, "query(holding.strlen, NOWHERE)"), signal.SIGSEGV, "in execute")


def test_a_native_thread_crashes_during_a_query(tmp_path: Path) -> None:
    assert_told(run(tmp_path, "query(native_thread, free.abort)"), signal.SIGABRT, "in execute")


def test_a_native_thread_crashes_while_the_gil_is_never_let_go(tmp_path: Path) -> None:
    death = run(tmp_path, "pause = holding.pause\nsay_ready(); native_thread(free.abort); pause()")
    assert_told(death, signal.SIGABRT, native=sys.version_info >= (3, 14))


# A signal from outside, as a worker that hangs gets it.


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_signal_during_a_query_shows_the_engine(tmp_path: Path, number: int) -> None:
    death = run(tmp_path, "query()", send=number)
    assert_told(death, number, "in execute", *["_lbug"] * HAS_NATIVE)


@pytest.mark.parametrize(
    "hang",
    ["time.sleep(60)", "os.read(0, 1)", "while True: pass", "free.sleep(60)", "holding.sleep(60)"],
    ids=["sleep", "read", "python", "native", "native-with-gil"],
)
def test_a_worker_that_hangs_shows_where(tmp_path: Path, hang: str) -> None:
    death = run(tmp_path, f"def here():\n  say_ready()\n  {hang}\nhere()", send=signal.SIGABRT)
    assert_told(death, signal.SIGABRT, "in here")


def test_a_main_thread_that_waits_for_the_gil_for_ever_dies_too(tmp_path: Path) -> None:
    script = "pause = holding.pause\nthreading.Thread(target=pause).start(); time.sleep(60)"
    death = run(tmp_path, f"say_ready(); {script}", send=signal.SIGABRT)
    assert_told(death, signal.SIGABRT, native=sys.version_info >= (3, 14))


# What else it does.


def test_a_worker_without_a_crash_ends_as_ever(tmp_path: Path) -> None:
    death = run(tmp_path, "say_ready()")
    assert (death.signal, death.errors) == (0, "")


def test_a_crash_after_python_has_ended_is_still_that_signal(tmp_path: Path) -> None:
    death = run(tmp_path, "say_ready(); holding.__cxa_atexit(ctypes.cast(free.abort, ctypes.c_void_p), None, None)")
    assert death.signal == signal.SIGABRT
    assert death.seconds < SOON_S


@pytest.mark.parametrize("end", ["os.abort()", "sys.exit()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_process_is_left(tmp_path: Path, end: str) -> None:
    children = "open(f'/proc/self/task/{os.getpid()}/children').read()"
    death = run(tmp_path, f"open('children', 'w').write({children}); say_ready(); {end}")
    assert death.seconds < SOON_S
    watchers = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    assert len(watchers) == (HAS_NATIVE and sys.version_info < (3, 14))
    deadline = time.monotonic() + SOON_S
    while any(map(is_alive, watchers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "lack",
    ["ctypes.PyDLL = lambda _: object()", "def fail(): raise BlockingIOError\nos.fork = fail"],
    ids=["glibc", "processes"],
)
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python writes the native stack itself")
def test_without_the_means_the_python_stacks_remain(tmp_path: Path, lack: str) -> None:
    death = run(tmp_path, "say_ready(); os.abort()", install=f"{lack}\nstacks.install()")
    assert_told(death, signal.SIGABRT, native=False)


def test_no_core_is_written_or_piped(tmp_path: Path) -> None:
    """At a limit of 0, the kernel would still hand a core to systemd-coredump."""
    run(tmp_path, "open('limit', 'w').write(str(resource.getrlimit(resource.RLIMIT_CORE))); say_ready()")
    assert (tmp_path / "limit").read_text() == "(1, 1)"
    hard_zero = "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nstacks.install()"
    assert run(tmp_path, "say_ready(); os.abort()", install=hard_zero).signal == signal.SIGABRT


def test_the_stacks_go_to_the_stderr_that_the_worker_has_at_its_start(tmp_path: Path) -> None:
    """Whatever becomes of `sys.stderr`."""
    assert_told(run(tmp_path, "sys.stderr = None; say_ready(); os.abort()"), signal.SIGABRT)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing but names
