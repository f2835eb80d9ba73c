"""Hooks: the owner's commands that run at the end of a run.

None of them changes how a run ended, and none is waited for without end. They run as the memory's owner, who this
process is. Of the environment they get what says who and where they are, and the facts as `NIMA_…`.
"""

import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from nimad.config import Settings
from nimad.engines.interpreter import hook_environment
from nimad.errors import ExitCode, LockedError, NimadError, RefusedError, StoppedError
from nimad.events.result import Outcome, Result
from nimad.events.run import Analyzing, Event, HookRan, Listener
from nimad.host import rights
from nimad.host.folders import ROOT
from nimad.state.paths import Files

#: Seconds that a hook may take; once the program is to stop; and, told to end, until it is killed.
LIMIT_S, STOP_S, TERMINATE_S = 60.0, 4.0, 2.0
#: Bytes of what a hook says that are kept, its last ones, and characters of a fact that it is told.
KEPT_BYTES, FACT_CHARS = 4_096, 2_000
#: Bytes that are read of it at a time, and how often in a row: one that never stops talking is looked at in between.
_READ_BYTES, _READS = 65_536, 16
_POLL_S = 0.1
#: What no variable can hold: the end of one, and halves of characters that stand for no byte of a name.
_NOT_FOR_VARIABLES = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")

COMPLETE, FAILURE, QUARANTINE = "on_complete", "on_failure", "on_quarantine"


class Hooks:
    """The hooks of one run, or of one target that is followed."""

    def __init__(self, settings: Settings, listener: Listener, stop: threading.Event) -> None:
        self._settings, self._listener, self._stop = settings, listener, stop
        self._run = ""
        self._stop_by: float | None = None  # once the program is to stop: for all hooks that are still to be run

    def hear(self, event: Event) -> None:
        """Take note of what the run calls itself, and tell the listener."""
        if isinstance(event, Analyzing):
            self._run = event.run
        self._listener(event)

    def ended(self, result: Result) -> None:
        """A run reached its end: what it made is published, and nothing of it is locked any more."""
        if result.outcome is not Outcome.COMPLETE:
            return
        aside = result.quarantined + result.quarantined_parts + result.unread_ranges
        facts = {
            "OUTCOME": "complete",
            "EXIT_CODE": int(result.exit_code),
            "MIGRATED": result.migrated,
            "QUARANTINED": aside,
            "RETRIES": result.retries,
            "SECONDS": round(result.elapsed_s, 1),
            "MESSAGE": f"{result.migrated} of {result.total_nodes} memories are in {result.target}",
        }
        self._call(COMPLETE, facts)
        if aside:
            self._call(QUARANTINE, facts)

    def failed(self, error: NimadError) -> None:
        """A run ended in an error. One that somebody stopped, or that found another at work, has not failed."""
        if self._stop.is_set() or isinstance(error, LockedError):
            return
        goes_on = isinstance(error, StoppedError) and not isinstance(error, RefusedError)
        outcome = "interrupted" if goes_on else "failed"
        self._call(FAILURE, {"OUTCOME": outcome, "EXIT_CODE": int(error.exit_code), "MESSAGE": str(error)})

    def set_aside_late(self, rows: int, nodes: int) -> None:
        """So many rows or parts that came late went to quarantine; `nodes` memories are in the target."""
        facts = {
            "OUTCOME": "complete",
            "EXIT_CODE": int(ExitCode.QUARANTINED),
            "MIGRATED": nodes,
            "QUARANTINED": rows,
            "MESSAGE": f"{rows} late rows or parts of rows went to quarantine",
        }
        self._call(QUARANTINE, facts)

    def _call(self, hook: str, facts: Mapping[str, Any]) -> None:
        words: Sequence[str] | None = getattr(self._settings, hook)
        if not words:
            return
        began = time.monotonic()
        told = {
            "HOOK": hook,
            "RUN": self._run,
            "SOURCE": self._settings.source,
            "TARGET": self._settings.target,
            "QUARANTINE_FILE": Files(self._settings.target).quarantine,
            **facts,
        }
        try:
            code, output, why = self._run_command(words, {f"NIMA_{name}": _fact(value) for name, value in told.items()})
        except (OSError, ValueError) as error:  # words that are no text for the system, too
            code, output, why = None, "", f"it cannot be run: {getattr(error, 'strerror', None) or error}"
        self._listener(HookRan(hook, code, why, output, round(time.monotonic() - began, 3)))

    def _run_command(self, words: Sequence[str], facts: Mapping[str, str]) -> tuple[int | None, str, str]:
        """Run it to its end: its exit status, the end of what it said, and why it has no status where it has none."""
        if self._left_s() <= 0:
            return None, "", "the program is to stop, so it was not run"
        folder = self._settings.source.parent
        if os.geteuid() == ROOT and not folder.exists():
            return None, "", f"there is no {folder}, so it is not known as whom to run it"
        environment = {**hook_environment(), **facts}
        named = os.path.join(Path.home(), words[0][2:]) if words[0].startswith("~/") else words[0]  # noqa: PTH118
        program = shutil.which(named, path=environment.get("PATH", os.defpath))
        if program is None:
            return None, "", f"there is no program {named} that may be run"
        if not rights.may_run(Path(program)):
            return None, "", f"others than root may write to {program}, so root does not run it"
        process = subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=environment,
        )
        return self._wait(process)

    def _wait(self, process: "subprocess.Popen[bytes]") -> tuple[int | None, str, str]:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        os.set_blocking(process.stdout.fileno(), False)
        output, deadline, why = bytearray(), time.monotonic() + LIMIT_S, ""
        numbers = [signal.SIGTERM, signal.SIGKILL]
        with process.stdout as stream, selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while process.poll() is None and numbers:
                selector.select(_POLL_S)
                if _read(stream, output) and process.poll() is None:  # it closed its output, and works on
                    time.sleep(_POLL_S)
                now = time.monotonic()
                left = self._left_s()
                if not why:
                    deadline = min(deadline, now + left)
                if now > deadline:
                    why = why or ("the program was to stop" if left < LIMIT_S else f"not done in {LIMIT_S:.0f} s")
                    _signal(process, numbers.pop(0))
                    deadline = now + TERMINATE_S
            with suppress(subprocess.TimeoutExpired):
                process.wait(TERMINATE_S)
            if why:  # what it started may have taken no notice
                _signal(process, signal.SIGKILL)
            _read(stream, output)
        text = output.decode(errors="replace").strip()
        return (None, text, f"{why}, so it was ended") if why else (process.returncode, text, "")

    def _left_s(self) -> float:
        """Seconds that hooks may still take: once the program is to stop, few for all of them together."""
        if not self._stop.is_set():
            return LIMIT_S
        now = time.monotonic()
        if self._stop_by is None:
            self._stop_by = now + STOP_S
        return self._stop_by - now


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """To a hook and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _read(stream: IO[bytes], output: bytearray) -> bool:
    """Take what there is to read, within bounds, and keep the end of it; whether nothing more can come."""
    with suppress(BlockingIOError):
        for _ in range(_READS):
            data = os.read(stream.fileno(), _READ_BYTES)
            output += data
            del output[:-KEPT_BYTES]
            if not data:
                return True
    return False


def _fact(value: object) -> str:
    """A fact as the environment can have it."""
    return _NOT_FOR_VARIABLES.sub("�", str(value))[:FACT_CHARS]
