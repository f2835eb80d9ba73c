"""The state file: what a run does and made, for people and programs. The target has precedence over it."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nimad._version import VERSION
from nimad.config.settings import is_plain_name
from nimad.config.target_names import AGENT_NAME, GUIDE_NAME
from nimad.host import bounded
from nimad.host.disk import READ_SUFFIXES, born_ns
from nimad.host.filesystems import number_of
from nimad.source.schema import EDGES, TURNS
from nimad.source.sqlite_file import Identity
from nimad.state.paths import Files, replace_text

#: Version of the state file's keys.
FORMAT = 1
#: Of times, in nanoseconds: a second, and as coarse as any file system keeps them (vfat).
_SECOND = 10**9
COARSEST_NS = 2 * _SECOND
_STAMP = "%Y-%m-%dT%H:%M:%S%z"
#: What is taken from a file only as an object, or as a list: whoever edits one may leave anything there.
_OBJECTS = (
    "source",
    "bounds",
    "published",
    "file",
    "log",
    "followed",
    "compact",
    "removed",
    "schema",
    "replaces",
    "versions",
    "another",
)
_LISTS = ("also", "tables")
#: Of a file that was noted, what is taken only as a number; of the first ones also None.
_STAMPS = ("inode", "born_ns", "bytes", "modified_ns", "recalled")
_UNKNOWN = ("inode", "born_ns")


@dataclass
class State:
    """The figures of a run as they stand. Times are seconds since the epoch, durations seconds."""

    files: Files
    source: Identity
    phase: str = "planning"
    started: float = field(default_factory=time.time)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # by source table: done, of
    free_bytes: int = 0  # of the unfinished target, in pages that hold nothing
    batch: int = 0
    total_batches: int = 0
    failed_batches: int = 0
    retries: int = 0
    rebuilds: int = 0  # how often the unfinished target was set aside whole
    quarantined: int = 0
    rows_per_s: float = 0.0
    eta_s: float = 0.0
    plan: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    readers: Sequence[Mapping[str, Any]] = ()  # engines that have to open the target
    indexed: bool = False  # the unfinished target has the vector index already
    brought: bool = False  # it holds rows of the target before already, which are not SQLite's
    also: Sequence[str] = ()  # further names of the target
    without_links: bool = False  # its file system has no links, so that it has one name
    phases_s: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)  # bytes of memory that the largest worker of a phase took
    tables: Sequence[str] = ()  # the source's tables that this run migrates
    bounds: Mapping[str, int] = field(default_factory=dict)  # highest key of each table that this run takes
    published: Mapping[str, int] = field(default_factory=dict)  # rows by target table, once verified
    file: Mapping[str, Any] = field(default_factory=dict)  # of the target as it was published
    compact: Mapping[str, int] = field(default_factory=dict)  # its bytes without holes, and nodes
    schema: Mapping[str, Any] = field(default_factory=dict)  # what the source's columns became
    replaces: Mapping[str, Any] = field(default_factory=dict)  # the state of the target that is there meanwhile
    message: str = ""

    def note_peak(self, peak_rss: int) -> None:
        """Note how much memory a worker of this phase took, in bytes."""
        self.peaks[self.phase] = max(peak_rss, self.peaks.get(self.phase, 0))

    def write(self) -> None:
        """Put the state file in place."""
        replace_text(self.files.state, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "phase": self.phase,
            "message": self.message,
            "source": self.source.to_json(),
            "target": str(self.files.target),
            "started": stamp(self.started),
            "updated": stamp(time.time()),
            "counts": self.counts,
            "free_bytes": self.free_bytes,
            "batch": self.batch,
            "total_batches": self.total_batches,
            "failed_batches": self.failed_batches,
            "retries": self.retries,
            "rebuilds": self.rebuilds,
            "quarantined": self.quarantined,
            "rows_per_s": round(self.rows_per_s, 1),
            "eta_s": round(self.eta_s, 1),
            "phases_s": {name: round(value, 3) for name, value in self.phases_s.items()},
            "peaks": dict(self.peaks),
            "tables": list(self.tables),
            "bounds": dict(self.bounds),
            "published": dict(self.published),
            "file": dict(self.file),
            "compact": dict(self.compact),
            "schema": dict(self.schema),
            "replaces": dict(self.replaces),
            "also": list(self.also),
            "without_links": self.without_links,
            "indexed": self.indexed,
            "brought": self.brought,
            "plan": dict(self.plan),
            "versions": {"nimad": VERSION, "engine": dict(self.engine), "readers": list(self.readers)},
        }


def stamp(moment: float) -> str:
    """A moment, in seconds since the epoch, as files have it: local time, with its distance from UTC."""
    return time.strftime(_STAMP, time.localtime(moment))


def moment(stamp: object) -> float | None:
    """The moment that a stamp names; None where it names none."""
    try:
        return datetime.strptime(str(stamp), _STAMP).timestamp()  # noqa: DTZ007 - the format has %z
    except ValueError:
        return None


def stamp_of(path: Path) -> dict[str, Any]:
    """What changes when somebody writes to a target's file, and what does not."""
    return {**_stamp(path), "born_ns": born_ns(path)}


def _stamp(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"inode": number_of(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def logs_of(path: Path) -> dict[str, dict[str, Any]]:
    """What the engine left beside a file that it would still read; empty for one that was closed."""
    beside = {suffix: path.with_name(path.name + suffix) for suffix in READ_SUFFIXES}
    return {suffix: _stamp(log) for suffix, log in beside.items() if log.exists() and log.stat().st_size}


def stamps_of(path: Path) -> dict[str, Any]:
    """What changes when somebody writes to a target: its file, or what the engine left beside it."""
    return {"file": stamp_of(path), "log": logs_of(path)}


def has_own_log(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether whatever log lies beside a target is as our last look left it."""
    return not logs_of(path) or _has_logs(path, made.get("log") or {})


def lost_log(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether a target lost a log that we left: what was in it is not in the target, though we noted it.

    It was taken into the file where that is newer than we left it, and the log stands under no other name: nima-core
    renames one that it takes for damaged.
    """
    noted = made.get("log", {})
    if not noted or logs_of(path) == noted:
        return False
    if made.get("file") == stamp_of(path):
        return not logs_of(path)
    own = {path.name + suffix for suffix in READ_SUFFIXES}
    beside = [entry for entry in path.parent.iterdir() if entry.name.startswith(path.name) and entry.name not in own]
    return any(_is_log(entry, log) for entry in beside if entry.is_file() for log in noted.values())


def _is_log(path: Path, noted: object) -> bool:
    """Whether a file is the log of which these stamps were noted; one that came later may have got its inode."""
    if not isinstance(noted, dict) or number_of(path) != noted.get("inode"):
        return False
    born = born_ns(path) if noted.get("inode") is not None else None
    return _stamp(path) == noted if born is None else born <= int(noted.get("modified_ns", 0))


def is_older(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether a target is older than our last look left it, as a copy that was put back into it is.

    A copy that keeps its time of writing is put back later than that; a write under a clock that was set back is not.
    What was noted of another file, which was about to take this one's place, says nothing of it.
    """
    noted, status = made.get("file", {}), path.stat()
    if not _is_noted(path, noted):
        return False
    return status.st_mtime_ns < int(noted.get("modified_ns", 0)) and status.st_ctime_ns > status.st_mtime_ns


def is_of(files: Files, made: Mapping[str, Any]) -> bool:
    """Whether the ledger is that of the target which is there, and not of one that was put in its place.

    A copy of it, as of a card that was cloned, is as large and as old as it was left.
    """
    target = files.target
    return any(_is_noted(target, made.get(name, {})) for name in ("file", "followed")) or _is_copy(target, made)


def _is_noted(path: Path, stamps: Mapping[str, Any]) -> bool:
    """Whether stamps were noted of this very file."""
    there, noted = which(path), which_of(stamps)
    if all(value is None for value in noted.values()):  # nothing was noted, or nothing tells files apart there
        return False
    return noted in (there, {**there, "born_ns": None})  # earlier versions noted the inode alone


def _is_copy(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether file and log are, to their sizes and times, what our last look left; by another inode, perhaps."""
    noted = made.get("file", {})
    return bool(noted) and _is_as_left(_stamp(path), noted) and _has_logs(path, made.get("log") or {})


def _has_logs(path: Path, noted: Mapping[str, Any]) -> bool:
    there = logs_of(path)
    return there.keys() == noted.keys() and all(_is_as_left(there[name], noted[name]) for name in there)


def _is_as_left(there: Mapping[str, Any], noted: Mapping[str, Any]) -> bool:
    if there["bytes"] != noted.get("bytes"):
        return False
    moments = there["modified_ns"], int(noted.get("modified_ns", 0))
    if moments[0] == moments[1]:
        return True
    rounded = any(moment % _SECOND == 0 for moment in moments)  # by an archive, or a file system with such times
    return rounded and abs(moments[0] - moments[1]) < COARSEST_NS


def tells_files_apart(path: Path) -> bool:
    """Whether anything of a file stays when somebody writes to it: FUSE has no birth, and invents the number."""
    return any(value is not None for value in which(path).values())


def which(path: Path) -> dict[str, int | None]:
    """What tells a file from every other, and stays when somebody writes to it."""
    return {"inode": number_of(path), "born_ns": born_ns(path)}


def which_of(stamps: Mapping[str, Any]) -> dict[str, int | None]:
    """The same of a file that these stamps were noted of."""
    return {name: stamps.get(name) for name in ("inode", "born_ns")}


def read(files: Files) -> dict[str, Any]:
    """What an earlier run wrote; empty where there is nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        data = json.loads(bounded.read(files.state, bounded.STATE_BYTES))
        if isinstance(data, dict) and data.get("format") == FORMAT and _is_ours(data):
            return data
    return {}


def _is_ours(data: Mapping[str, Any]) -> bool:
    shapes = {**dict.fromkeys(_OBJECTS, dict), **dict.fromkeys(_LISTS, list)}
    if not all(isinstance(data[name], shape) for name, shape in shapes.items() if name in data):
        return False
    stamps = [data.get("file", {}), data.get("followed", {}), *data.get("log", {}).values()]
    return all(map(_are_stamps, stamps))


def _are_stamps(noted: object) -> bool:
    if not isinstance(noted, dict):
        return False
    there = [(name, noted[name]) for name in _STAMPS if name in noted]
    return all(isinstance(value, int) or (value is None and name in _UNKNOWN) for name, value in there)


def of_target(files: Files) -> dict[str, Any]:
    """What the run wrote that made the target which is there; empty where no run tells of it."""
    data = read(files)
    if data.get("published") and (data.get("phase") == "complete" or not files.staging.exists()):
        return data
    replaced = data.get("replaces")
    return replaced if isinstance(replaced, dict) and _is_ours(replaced) else {}


def note_names(files: Files, made: Mapping[str, Any]) -> None:
    """Note the further names that the target has now, for the run that is not asked for one of them any more."""
    note(files, made, {"also": list(files.also)})


def note(files: Files, made: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Note facts of the target that is there, whose state is `made`; return what its state is then."""
    data, noted = read(files), {**made, **facts}
    data = noted if data == made else {**data, "replaces": noted}
    replace_text(files.state, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return noted


def is_of_nodes_alone(made: Mapping[str, Any]) -> bool:
    """Whether a target was made of nodes alone, as asked for: edges that cannot be read say nothing of turns."""
    return not {EDGES, TURNS} & {*made.get("tables", (EDGES,))}


def names_of(data: Mapping[str, Any]) -> list[str]:
    """The further names of the target that a run made: names in its folder, or a usual one in another."""
    return [name for name in data.get("also", ()) if is_plain_name(name) or _is_usual(name)]


def _is_usual(name: object) -> bool:
    """Whether this is the way from a target to a name of the guide's, or of the agent's, in another folder."""
    if not isinstance(name, str) or "\0" in name or name.startswith("/"):
        return False
    return Path(name).name in (AGENT_NAME, GUIDE_NAME) and is_plain_name(Path(name).name)


def identity_of(data: Mapping[str, Any]) -> Identity | None:
    """The source that an earlier run read."""
    source = data.get("source")
    if not isinstance(source, dict):
        return None
    path, inode, device = source.get("path"), source.get("inode"), source.get("device", 0)
    if not isinstance(path, str) or not isinstance(inode, int | None) or not isinstance(device, int):
        return None
    return Identity(path, inode, device)
