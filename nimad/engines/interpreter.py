"""Another Python interpreter: started with a clean environment, its output read within limits."""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nimad.engines import probe_script
from nimad.errors import StoppedError

#: What a child inherits of the environment. Everything else, secrets and systemd's sockets among it, stays here.
_PASSED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "VIRTUAL_ENV"})
_PASSED_PREFIXES = ("LD_", "PYTHON", "MALLOC_")
#: Of these, what leads to our own packages, or into every program.
_OUR_OWN = ("PYTHON", "VIRTUAL_ENV", "LD_")
#: The language of who called us, which a hook speaks.
_LANGUAGE = ("LANG", "LC_")
#: What would have a worker read its job, or a name on the disk, in another encoding than UTF-8.
_ENCODING = ("PYTHONIOENCODING", "PYTHONUTF8")

#: Of every child that imports an engine: it upper-cases names as the locale does, and in a Turkish one `fsm_info`
#: becomes `FSM_İNFO`, which no function is called.
LOCALE = "C.UTF-8"

#: Seconds between looks at the stop flag while the probe works.
_POLL_S = 0.1
#: Bytes of an answer: one line for each of a few engines.
ANSWER_BYTES = 64 * 1024


def child_environment(environment: Mapping[str, str], locale: str = LOCALE) -> dict[str, str]:
    """Of an environment, what our own workers get."""
    return {**_passed(environment), "LC_ALL": locale}


def foreign_environment(locale: str = LOCALE) -> dict[str, str]:
    """What a program that is not ours gets of our environment."""
    passed = child_environment(os.environ, locale)
    return {name: value for name, value in passed.items() if not name.startswith(_OUR_OWN)}


def hook_environment() -> dict[str, str]:
    """The same for a program of the owner's, which speaks the owner's language."""
    language = {name: value for name, value in os.environ.items() if name.startswith(_LANGUAGE)}
    ours = {name: value for name, value in foreign_environment().items() if not name.startswith(_LANGUAGE)}
    return {**ours, **language}


def _passed(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in _PASSED or (name.startswith(_PASSED_PREFIXES) and name not in _ENCODING)
    }


@dataclass(frozen=True)
class Interpreter:
    """`python` is not resolved: in a virtual environment the link is what tells where its packages are."""

    python: str = sys.executable
    locale: str = LOCALE

    @property
    def is_ours(self) -> bool:
        return self.python == sys.executable

    def environment(self) -> dict[str, str]:
        ours = child_environment(os.environ, self.locale) if self.is_ours else foreign_environment(self.locale)
        places = {"LOCPATH": os.environ["LOCPATH"]} if self.locale != LOCALE and "LOCPATH" in os.environ else {}
        return {**ours, **places}

    def ask(self, stop: threading.Event, limit_s: float, *words: str) -> tuple[list[dict[str, Any]], str]:
        """What `probe_script.py` answers in this interpreter, and how it ended where that was not well."""
        with Path(probe_script.__file__).open("rb") as program:  # which its user need not be able to read
            return self._ask(program, stop, limit_s, words)

    def _ask(
        self, program: IO[bytes], stop: threading.Event, limit_s: float, words: Sequence[str]
    ) -> tuple[list[dict[str, Any]], str]:
        try:
            process = subprocess.Popen(
                [self.python, "-", *words],
                stdin=program,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=self.environment(),
            )
        except OSError as error:
            return [], f"it cannot be run ({error.strerror})"
        with process:
            try:
                output, ended = _heard(process, stop, limit_s)
            finally:
                with suppress(ProcessLookupError, PermissionError):  # with whatever it started
                    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, it still has its number
        if ended is None:
            ended = f"it ended with {process.returncode}" if process.returncode else ""
        return _answers(output), ended


def _heard(process: "subprocess.Popen[bytes]", stop: threading.Event, limit_s: float) -> tuple[bytes, str | None]:
    """What it says until it has ended, and why that was cut short, None where it was not.

    A process that it leaves behind with the other end of the pipe is not waited for.
    """
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    os.set_blocking(process.stdout.fileno(), False)
    deadline, output = time.monotonic() + limit_s, bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            has_ended = _has_ended(process.pid)
            if selector.get_map():
                selector.select(0 if has_ended else _POLL_S)
                if _read(process.stdout.fileno(), output):
                    selector.unregister(process.stdout)
            elif not has_ended:
                time.sleep(_POLL_S)
            if len(output) > ANSWER_BYTES:
                return b"", f"its answer is longer than {ANSWER_BYTES:,} bytes"
            if has_ended:
                return bytes(output), None
            if stop.is_set():
                raise StoppedError("stopped")
            if time.monotonic() > deadline:
                return b"", f"it did not answer within {limit_s:.0f} seconds"


def _read(descriptor: int, output: bytearray) -> bool:
    """Take what there is to read, little more than an answer may have; whether nothing more can come."""
    with suppress(BlockingIOError):
        while len(output) <= ANSWER_BYTES:
            data = os.read(descriptor, ANSWER_BYTES)
            output += data
            if not data:
                return True
    return False


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _answers(output: bytes) -> list[dict[str, Any]]:
    found: Sequence[Any] = []
    with suppress(ValueError, RecursionError):
        found = [json.loads(line) for line in output.splitlines()]
    return [answer for answer in found if isinstance(answer, dict)]
