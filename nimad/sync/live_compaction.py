"""Live compaction: a published target with many holes is copied without them, and swapped in.

Each turn that nima-core stores rewrites whole columns: a target of 22 MB grew by 10.5 MB a turn (0.22.0), and never
less. The copy takes the target's place in one rename, once another process found every table, row and value of it the
same. Meanwhile no program can write to the target, so it is done when nobody writes, and gives way to who does.
"""

import os
import shutil
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nimad.errors import NimadError, RefusedError, StoppedError
from nimad.events.run import Compacted, Listener, NotCompacted
from nimad.host import machine
from nimad.host.disk import discard, export_folder, sync
from nimad.source.schema import NODES, TARGET_TABLES
from nimad.source.sqlite_file import SourceFile
from nimad.state import target_state
from nimad.state.paths import Files
from nimad.supervisor import held_target
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import compaction_disk, compaction_needs, limits_for
from nimad.supervisor.timeout import Timeout
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.worker.protocol import Job, Task

#: Bytes below which holes cost nobody anything.
SMALL_FILE = 2 * 1024**2
#: A target larger than this many times its compact self is copied once nobody writes,
WORTHWHILE = 1.3
#: by a command that somebody waits for from here on,
IN_PASSING = 2.0
#: as large as this between two turns, because an agent may never rest,
PRESSING = 4.0
#: and as large as this, and of more bytes than the second, without giving way to a turn.
LAST_RESORT, LAST_RESORT_BYTES = 10.0, 1024**3
#: What a target whose least size nobody noted counts as, so that it is looked at.
_NOT_KNOWN = 1.5
#: Seconds without a write to either file after which nobody writes.
QUIET_S = 10.0
#: Seconds from one copy to the next: at least, and how many times as long as the last one took. One that gave way is
#: tried again once it may be quiet.
LEAST_INTERVAL_S, TIMES_AS_LONG = 30.0, 20.0


class LiveCompaction:
    """When a target is copied without its holes, and the copying. The caller of `compact` holds the run's lock."""

    def __init__(self, source: SourceFile, stop: threading.Event, listener: Listener) -> None:
        self._source, self._stop, self._listener = source, stop, listener
        self._next = 0.0
        self._said = ""  # why there was no copy, as it was told last
        self._seen: tuple[Any, float] = (None, 0.0)  # both files, and since when they are like that

    def due_in(self, files: Files) -> float | None:
        """Seconds until a copy is worthwhile and may be made; None where it is not."""
        grown = _growth(files)
        if grown <= WORTHWHILE:
            return None
        now, stamps = time.monotonic(), (self._source.stamps(), target_state.stamps_of(files.target))
        if stamps != self._seen[0]:
            self._seen = stamps, now
        quiet_at = 0.0 if grown > PRESSING else self._seen[1] + QUIET_S
        return max(0.0, self._next - now, quiet_at - now)

    def compact(self, files: Files, launch: Launch, *, beyond: float = WORTHWHILE) -> bool:
        """Copy the target without its holes, where it is worthwhile and nobody has it open; whether that was done."""
        began, grown = time.monotonic(), _growth(files)
        if grown <= beyond:
            return False
        interval_s = LEAST_INTERVAL_S
        last_resort = grown > LAST_RESORT and machine.space_taken(files.target) > LAST_RESORT_BYTES
        stop = self._stop if last_resort else _Written(self._stop, self._source)
        try:
            with WorkerPool(stop, launch=launch) as workers:
                held_target.take_in_log(files, workers)
                with held_target.held_closed(files, readers=True):
                    return self._copied(files, workers)
        except (RefusedError, StoppedError):  # the agent has it open, or wrote meanwhile, or the service stops
            interval_s = QUIET_S
            return False
        except (NimadError, OSError) as error:  # what was brought is there all the same
            self._tell(str(error))
            return False
        finally:
            discard(files.compacted)
            shutil.rmtree(export_folder(files.compacted), ignore_errors=True)
            now = time.monotonic()
            self._next = now + max(interval_s, TIMES_AS_LONG * (now - began))

    def _copied(self, files: Files, workers: WorkerPool) -> bool:
        target, copy = files.target, files.compacted
        counted = self._do(files, workers, Job(task=Task.COUNT, target=str(target)))
        if not counted.ok:
            return self._tell(counted.message)
        size, nodes = machine.space_taken(target), _nodes(counted)
        made = target_state.of_target(files)
        if not made.get("compact"):  # of a target that was made before this was noted
            compact = machine.space_used(target, int(counted.facts["free_bytes"]))
            made = target_state.note(files, made, {"compact": {"bytes": compact, "nodes": nodes}})
        if size <= WORTHWHILE * _estimate(made):
            return False
        if counted.facts["indexed"]:
            return self._tell("it has a vector index, which a copy would not have")
        if machine.free_disk(target.parent) < compaction_disk(size):
            return self._tell(f"{compaction_disk(size):,} bytes of disk needed")
        discard(copy)
        answer = self._do(files, workers, Job(task=Task.COMPACT, target=str(target), copy_to=str(copy)))
        if answer.ok:
            answer = self._do(
                files, workers, Job(task=Task.COMPARE_TARGETS, target=str(target), copy_to=str(copy)), last=True
            )
        if not answer.ok:
            return self._tell(answer.message)
        if answer.facts["differs"] or answer.facts["free_twice"]:
            return self._tell(f"{answer.facts['differs'] or 'its free pages'} differ in the copy")
        _put_in_place(files, nodes)
        self._listener(Compacted(size, machine.space_taken(target)))
        self._said = ""
        return True

    def _tell(self, why: str) -> bool:
        """Say once why there is no copy, which is what is returned."""
        if why != self._said:
            self._listener(NotCompacted(why, ""))
        self._said = why
        return False

    def _do(self, files: Files, workers: WorkerPool, job: Job, *, last: bool = False) -> WorkerResult:
        taken = machine.space_taken(files.target)
        pool = compaction_needs(_estimate(target_state.of_target(files)))[1]
        limits = limits_for(taken)
        if job.task is not Task.COUNT:
            limits = replace(limits, pool_bytes=max(pool, limits.pool_bytes))
        return workers.do(job.within(limits), limit_s=Timeout().limit_s(2 * taken), last=last)


def measured(path: Path, counted: Mapping[str, int]) -> dict[str, int]:
    """What is noted of a file without holes: its bytes, and how many memories it holds."""
    return {"bytes": machine.space_taken(path), "nodes": counted.get(TARGET_TABLES[NODES], 0)}


def _growth(files: Files) -> float:
    """How many times as large as it has to be the target is; 0 where that does not matter, or a copy would be another.

    A file with two names, or one of another user's, would not be what it was under the one name that a copy takes.
    """
    target = files.target
    if not target.exists() or target.is_symlink() or machine.space_taken(target) < SMALL_FILE:
        return 0.0
    status = target.stat()
    if status.st_nlink != 1 or status.st_uid != os.geteuid():
        return 0.0
    estimate = _estimate(target_state.of_target(files))
    return machine.space_taken(target) / estimate if estimate else _NOT_KNOWN


def _nodes(counted: WorkerResult) -> int:
    return int(counted.facts["counts"].get(TARGET_TABLES[NODES], {}).get("rows", 0))


def _estimate(made: Mapping[str, Any]) -> int:
    """Bytes that the target would take without holes: as it was last without, by its memories now. 0: not known."""
    compact = made.get("compact")
    if not isinstance(compact, dict):
        return 0
    nodes = int(made.get("published", {}).get(TARGET_TABLES[NODES], 0))
    return int(compact.get("bytes", 0) * max(1.0, nodes / max(1, int(compact.get("nodes", 0)))))


def _put_in_place(files: Files, nodes: int) -> None:
    """Give the copy the target's name. What is noted of the target is noted of the copy first: it is the same file."""
    target, copy = files.target, files.compacted
    _open_to_the_same(copy, target)
    sync(copy)
    made = target_state.of_target(files)
    followed = {**made.get("followed", {}), **target_state.which(target)}
    compact = measured(copy, {TARGET_TABLES[NODES]: nodes})
    target_state.note(
        files, made, {"file": target_state.stamp_of(copy), "log": {}, "followed": followed, "compact": compact}
    )
    copy.replace(target)
    sync(target.parent)


def _open_to_the_same(copy: Path, target: Path) -> None:
    """Let those have the copy who have the target: by its group, its mode and its access list."""
    status = target.stat()
    if copy.stat().st_gid != status.st_gid:
        os.chown(copy, -1, status.st_gid)
    copy.chmod(stat.S_IMODE(status.st_mode))
    with suppress(OSError):  # a file system without
        for name in os.listxattr(target):
            if name.startswith("system.posix_acl"):
                os.setxattr(copy, name, os.getxattr(target, name))


class _Written(threading.Event):
    """Set once a stop is asked for or SQLite is written to: a copy can be made later, and a turn is not to wait."""

    def __init__(self, stop: threading.Event, source: SourceFile) -> None:
        super().__init__()
        self._stop, self._source, self._before = stop, source, source.stamps()

    def is_set(self) -> bool:
        return self._stop.is_set() or self._source.stamps() != self._before
