"""An interpreter that is not ours: started with the rights and the surroundings that its owner would give it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nimad import guest, rights
from nimad.errors import StoppedError

#: What a child inherits of the environment. Everything else, secrets and systemd's sockets among it, stays here.
_PASSED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"})
_PASSED_PREFIXES = ("LC_", "LD_", "PYTHON", "MALLOC_")
#: Of these, what leads to our own packages.
_OUR_OWN = ("PYTHON", "VIRTUAL_ENV")

#: Seconds between looks at the stop flag while a guest works.
_POLL_S = 0.1


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}


@dataclass(frozen=True)
class Interpreter:
    """`python` is not resolved: in a virtual environment the link is what tells where its packages are."""

    python: str = sys.executable
    rights: Mapping[str, Any] = field(default_factory=dict)  # for Popen
    home: str = ""

    @classmethod
    def of_owner(cls, python: Path, source: Path) -> "Interpreter":
        """An interpreter that runs as the owner of the memory `source`, where that is for us to say."""
        return cls(str(python), rights.of_owner(source), str(rights.home_of_owner(source)))

    @property
    def is_ours(self) -> bool:
        return self.python == sys.executable

    def environment(self) -> dict[str, str]:
        passed = child_environment(os.environ)
        if self.is_ours:
            return passed
        foreign = {name: value for name, value in passed.items() if not name.startswith(_OUR_OWN)}
        return {**foreign, "HOME": self.home} if self.home else foreign

    def ask(self, stop: threading.Event, limit_s: float, *words: str) -> tuple[list[dict[str, Any]], str]:
        """What `guest.py` answers in this interpreter, and how it ended where that was not well."""
        with Path(guest.__file__).open("rb") as program:  # which she need not be able to read herself
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
                **self.rights,
            )
        except OSError as error:
            return [], f"it cannot be run ({error.strerror})"
        with process:
            try:
                output, ended = _wait(process, stop, limit_s)
            except BaseException:
                process.kill()
                raise
        return _answers(output), ended


def _wait(process: "subprocess.Popen[bytes]", stop: threading.Event, limit_s: float) -> tuple[bytes, str]:
    deadline = time.monotonic() + limit_s
    while True:
        with suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=_POLL_S)
            return output, f"it ended with {process.returncode}" if process.returncode else ""
        if stop.is_set():
            raise StoppedError("stopped")
        if time.monotonic() > deadline:
            os.killpg(process.pid, 9)
            process.communicate()
            return b"", f"it did not answer within {limit_s:.0f} seconds"


def _answers(output: bytes) -> list[dict[str, Any]]:
    found: Sequence[Any] = []
    with suppress(ValueError):
        found = [json.loads(line) for line in output.splitlines()]
    return [answer for answer in found if isinstance(answer, dict)]
