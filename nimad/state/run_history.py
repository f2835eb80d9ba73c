"""The run history: what each run did, line by line, for `nimad report`. The target has precedence over it.

One JSON object a line, in the order in which things happened. A line with `begins` opens the section of one process;
those after it say what it heard, `t` seconds later. A process that is killed leaves a section without an end, and the
one that goes on from there begins another. Nothing of a memory's rows is in it but ids, and what a quarantine says of
them in one line.
"""

import json
import os
import platform
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from nimad._version import VERSION
from nimad.config import Settings
from nimad.errors import NimadError, RefusedError, StoppedError
from nimad.events import run as e
from nimad.host import bounded
from nimad.state.paths import Files, replace_bytes

#: Version of the lines' keys.
FORMAT: Final = 1
#: Bytes that the file may have when a run begins, and that are kept of one that has more: the newest whole sections.
LARGEST_BYTES: Final = 1024 * 1024
KEPT_BYTES: Final = 512 * 1024
#: Bytes after which a section has no more lines of what there may be thousands of.
SECTION_BYTES: Final = 256 * 1024
#: Of one line: characters of a text, and members of a list or table.
TEXT_CHARS, MEMBERS = 300, 24
#: Batches of one table have at most about twice so many lines: neighbours of few rows share one.
LINES_PER_TABLE: Final = 200
BEGINS: Final = "begins"
OPENING: Final = f'{{"{BEGINS}":'.encode()

#: What is written down as it is heard. Batches have a form of their own.
_KEPT = (
    *(e.Analyzed, e.Planned, e.EngineChosen, e.Started, e.Salvaged, e.BatchFailed, e.BatchLost, e.EngineComplained),
    *(e.PoolRaised, e.Isolating, e.Isolated, e.SetAside, e.Paused, e.Resumed, e.TableLoaded, e.Compacted),
    *(e.NotCompacted, e.Indexed, e.NotIndexed, e.ReaderChecked, e.Verifying, e.Verified, e.LateArrivals, e.Published),
    *(e.BroughtAlong, e.NotBroughtAlong, e.GaveWay, e.Named, e.NotNamed, e.Finished),
)
_MANY = (e.BatchFailed, e.BatchLost, e.EngineComplained, e.PoolRaised, e.Isolating, e.Isolated, e.SetAside)


@dataclass
class _Batches:
    """Neighbouring batches of one table that share a line. Times in seconds, sizes in bytes."""

    table: str
    number: int  # of the last one
    batches: int
    offset: int  # rows of the table that were through before the first one
    rows: int
    bytes: int
    seconds: float
    attempts: int  # of the one that took most
    peak_rss: int
    done: int
    of: int

    def add(self, other: "_Batches") -> None:
        self.number, self.done, self.of = other.number, other.done, other.of
        self.batches += other.batches
        self.rows, self.bytes = self.rows + other.rows, self.bytes + other.bytes
        self.seconds = round(self.seconds + other.seconds, 3)
        self.attempts = max(self.attempts, other.attempts)
        self.peak_rss = max(self.peak_rss, other.peak_rss)

    @property
    def fills_a_line(self) -> bool:
        return self.rows * LINES_PER_TABLE >= self.of or self.attempts > 1


class RunHistory:
    """Hears what a run says, writes it down beside the target, and passes it on.

    Nothing is written before the run may write at all. What cannot be written is left out: no run ends for it.
    """

    def __init__(self, settings: Settings, files: Files, listener: e.Listener) -> None:
        self._settings, self._files, self._listener = settings, files, listener
        self._began, self._at = time.monotonic(), time.time()
        self._goes_on = files.staging.exists() and not settings.restart
        self._run = ""
        self._waiting: list[bytes] = []
        self._file: int | None = None
        self._written = self._attempts = 0
        self._batches: _Batches | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write_batches()
        if error is not None:
            self._write(_ended(error))
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def hear(self, event: e.Event) -> None:
        """Note what happened, and tell the listener."""
        if isinstance(event, e.Analyzing):
            self._run = event.run
        elif isinstance(event, e.BatchLoaded):
            self._load(event)
        elif isinstance(event, _KEPT):
            self._note(event)
        self._listener(event)

    def _note(self, event: e.Event) -> None:
        if isinstance(event, e.BatchFailed):
            self._attempts += 1
        elif isinstance(event, e.TableLoaded):
            self._attempts = 0
        self._write_batches()
        if isinstance(event, e.Started):
            self._open()
        if not (isinstance(event, _MANY) and self._written > SECTION_BYTES):
            self._write(_clipped(event.to_json()))

    def _load(self, event: e.BatchLoaded) -> None:
        attempts, self._attempts = self._attempts + 1, 0
        counts = event.rows, event.bytes, event.seconds, attempts, event.peak_rss, event.done, event.of
        batch = _Batches(event.table, event.number, 1, event.done - event.rows, *counts)
        if self._batches is None:
            self._batches = batch
        else:
            self._batches.add(batch)
        if self._batches.fills_a_line:
            self._write_batches()

    def _write_batches(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None and self._written <= SECTION_BYTES:
            self._write({"event": "Batch", **vars(batches)})

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        head = _line({BEGINS: self._run, "format": FORMAT, "at": round(self._at, 3), **self._surroundings()})
        waiting, self._waiting = [head, *self._waiting], []
        with suppress(OSError):
            _shorten(self._files)
            self._file = os.open(self._files.runs, flags, 0o600)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":  # a power cut, or a full disk, tore the last line
                waiting.insert(0, b"\n")
        for line in waiting:
            self._append(line)

    def _surroundings(self) -> dict[str, Any]:
        system = platform.uname()
        return {
            "goes_on": self._goes_on,
            "source": str(self._settings.source),
            "target": str(self._files.target),
            "nimad": VERSION,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "system": f"{system.system} {system.release} {system.machine}",
        }

    def _write(self, facts: Mapping[str, Any]) -> None:
        line = _line({"t": round(time.monotonic() - self._began, 3), **facts})
        if self._file is not None:
            self._append(line)
        elif len(self._waiting) < MEMBERS:  # until it is clear that a run may write
            self._waiting.append(line)

    def _append(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            whole = os.write(self._file, line) == len(line)
        except OSError:
            whole = False
        self._written += len(line)
        if not whole:
            os.close(self._file)
            self._file = None


def _shorten(files: Files) -> None:
    """Take the oldest sections out of a record that has grown large."""
    try:
        if files.runs.stat().st_size <= LARGEST_BYTES:
            return
    except FileNotFoundError:
        return
    sections: list[list[bytes]] = [[]]
    size = 0
    for line in bounded.lines(files.runs):
        size += len(line)
        if size > bounded.STATE_BYTES:  # none of ours
            sections = [[]]
            break
        if line.startswith(OPENING):
            sections.append([])
        sections[-1].append(line)
    kept, size = [], 0
    for section in reversed(sections[1:]):
        size += sum(map(len, section))
        if size > KEPT_BYTES:
            break
        kept.append(section)
    replace_bytes(files.runs, (line for section in reversed(kept) for line in section))


def _ended(error: BaseException) -> dict[str, Any]:
    interrupted = not isinstance(error, RefusedError) and isinstance(error, (StoppedError, KeyboardInterrupt))
    return {
        "event": "Ended",
        "outcome": "interrupted" if interrupted else "failed",
        "exit_code": int(error.exit_code) if isinstance(error, NimadError) else None,
        "message": _clipped(str(error) or type(error).__name__),
    }


def _line(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"


def _clipped(value: Any) -> Any:
    """A value of a bounded length, however large what it tells of is."""
    if isinstance(value, str):
        return value if len(value) <= TEXT_CHARS else f"{value[: TEXT_CHARS - 1]}…"
    if isinstance(value, Mapping):
        room = MEMBERS * 2  # a plan has more members than lists of ids need
        return {str(name)[:TEXT_CHARS]: _clipped(each) for name, each in list(value.items())[:room]}
    if isinstance(value, Sequence):
        return [_clipped(each) for each in value[:MEMBERS]]
    return value
