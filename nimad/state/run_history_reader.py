"""Reading the run history: migrations of one or more sections, with batches and failures.

Whatever somebody, or a failing disk, wrote into the file: what cannot be read is passed over.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from nimad.errors import UsageError
from nimad.host import bounded
from nimad.plural import number_of
from nimad.source.schema import TARGET_TABLES
from nimad.state.run_history import BEGINS, FORMAT


@dataclass(frozen=True)
class RecordedBatch:
    """One line of batches. `at_s`: seconds from the section's beginning to the last one's end."""

    table: str
    number: int
    batches: int
    offset: int
    rows: int
    bytes: int
    seconds: float
    attempts: int
    peak_rss: int
    done: int
    of: int
    at_s: float = 0.0

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Self | None:
        values: dict[str, Any] = {each.name: line.get(each.name) for each in fields(cls) if each.name != "at_s"}
        sizes = [value for name, value in values.items() if name != "table"]
        if values["table"] not in list(TARGET_TABLES) or not all(_is_amount(size) for size in sizes):
            return None
        return cls(**values, at_s=_seconds(line))


@dataclass(frozen=True)
class Section:
    """What one process did. `began`: seconds since the epoch; `lines`: what it heard, each with its `event`."""

    head: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]

    @property
    def run(self) -> str:
        return str(self.head[BEGINS])

    @property
    def began(self) -> float:
        return float(self.head["at"])

    @property
    def seconds(self) -> float:
        """As long as it is known to have lasted."""
        return max((_seconds(line) for line in self.lines), default=0.0)

    @property
    def batches(self) -> list[RecordedBatch]:
        return [batch for line in self.all("Batch") if (batch := RecordedBatch.of_line(line)) is not None]

    @property
    def end(self) -> Mapping[str, Any] | None:
        """Its last word: `Finished`, or `Ended` for a reason; None of one that goes on, or was killed."""
        return self.last("Finished") or self.last("Ended")

    def all(self, event: str) -> list[Mapping[str, Any]]:
        return [line for line in self.lines if line.get("event") == event]

    def last(self, event: str) -> Mapping[str, Any] | None:
        return next(reversed(self.all(event)), None)


@dataclass(frozen=True)
class Migration:
    """One target's making: the sections of every process that worked on it, in their order."""

    sections: Sequence[Section]

    @property
    def run(self) -> str:
        """What the last process called itself, by which the journal finds its lines."""
        return self.sections[-1].run

    @property
    def is_published(self) -> bool:
        return any(section.last("Published") for section in self.sections)

    def last(self, event: str) -> Mapping[str, Any]:
        """The latest word of this kind; empty where there is none."""
        return next((line for each in reversed(self.sections) if (line := each.last(event))), {})


def read_history(path: Path) -> list[Migration]:
    """The migrations that the record tells of, the oldest first."""
    found: list[Migration] = []
    for section in _sections(path):
        goes_on = section.head.get("goes_on") is True
        if goes_on and found and not found[-1].is_published:
            found[-1] = Migration([*found[-1].sections, section])
        else:
            found.append(Migration([section]))
    return found


def choose_migration(found: Sequence[Migration], run: str | None, path: Path) -> Migration | None:
    """The latest migration, or the one of which a section's name begins with `run`."""
    if run is None:
        return found[-1] if found else None
    hits = [each for each in found if any(section.run.startswith(run) for section in each.sections)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise UsageError(f"{number_of(len(hits), 'run')} in {path} begin with {run!r}; type more of it")
    names = ", ".join(each.run[:8] for each in found) or "none"
    raise UsageError(f"{path} tells of no run {run!r}; it has {names}")


def _sections(path: Path) -> Iterator[Section]:
    head: dict[str, Any] | None = None
    lines: list[dict[str, Any]] = []
    for line in _lines(path):
        if BEGINS in line:
            if head is not None:
                yield Section(head, lines)
            whole = line.get("format") == FORMAT and isinstance(line[BEGINS], str) and _is_amount(line.get("at"))
            head, lines = line if whole else None, []
        elif isinstance(line.get("event"), str):
            lines.append(line)
    if head is not None:
        yield Section(head, lines)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = bounded.read(path, bounded.STATE_BYTES)
    except OSError as error:  # what stands there otherwise is no record of ours
        if isinstance(error, PermissionError):
            raise
        return
    for text in content.split(b"\n"):
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63


def _seconds(line: Mapping[str, Any]) -> float:
    at = line.get("t")
    return float(at) if isinstance(at, (int, float)) and 0 <= at < 2**63 else 0.0
