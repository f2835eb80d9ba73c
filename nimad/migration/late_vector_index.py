"""The vector index of a finished target, built later in a copy that replaces the target in one rename."""

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from nimad.config import Settings
from nimad.engines import packages, selection
from nimad.errors import DiskError, EngineError, UsageError
from nimad.host import machine, rights
from nimad.host.disk import discard, is_closed, sync
from nimad.migration import reader_check, vector_index
from nimad.state import provenance, target_state
from nimad.state.paths import Files, check_names, locked, replace_text
from nimad.state.provenance import MadeWith
from nimad.supervisor import held_target, worker_failure
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import limits_for
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.worker.protocol import Job, Task

#: Seconds that making an index may take for each MB of the file, and at least.
_SECONDS_PER_MB, _LEAST_S = 10, 600.0


def index(settings: Settings, stop: threading.Event | None = None) -> Path:
    """Make the vector index of `settings.target`; return the dated backup of the file without it.

    No other program may have the target open meanwhile. Raises `EngineError` when there is no extension that fits.
    """
    stop, target = stop or threading.Event(), settings.target
    if not target.exists():
        raise UsageError(f"there is no {target}; name a finished target with --target")
    if target.is_symlink():
        raise UsageError(f"{target} is another name of {target.resolve()}; name that one with --target")
    files, before = Files.of(settings), provenance.made_with(target)
    rights.check_own(target)
    check_names(files, target, settings.log_file)
    choice = selection.choose_engine(settings, target, before, stop)
    if choice.refusal:
        raise EngineError(choice.refusal)
    with locked(files), WorkerPool(stop, launch=Launch(choice.interpreter, choice.module)) as do:
        held_target.take_in_log(files, do)
        with held_target.held_closed(files) as file:
            engine = _check(settings, choice, before, do)
            try:
                _build(files, file, settings, choice, do)
                return _swap(files, engine)
            finally:
                discard(files.indexing)


def _check(settings: Settings, choice: selection.Choice, before: MadeWith, workers: WorkerPool) -> Mapping[str, Any]:
    """Return the engine. Raise when it is not the target's, there is no extension for it, or the disk is too small."""
    probe = workers.do(Job(task=Task.PROBE))
    if not probe.ok:
        raise worker_failure.error_of(probe)
    engine: Mapping[str, Any] = probe.facts["engine"]
    if before.storage_version and engine["storage_version"] != before.storage_version:
        raise EngineError(
            f"{settings.target} has storage version {before.storage_version}, and {engine['name']} {engine['version']} "
            f"would make it {engine['storage_version']}, which the agent might not open; name an interpreter with the "
            "engine that made it, with --engine-python"
        )
    why_not = vector_index.find(str(engine["version"]), settings.vector_extension)
    why_not = why_not or vector_index.readers_obstacle(choice, settings.vector_extension, workers.stop)
    if why_not:
        raise EngineError(
            f"no vector index: {why_not}. Exact search by embedding works without it. Name the extension's file with "
            f"--extension, or have the engine download it: {_download(choice)}"
        )
    copied = settings.target.stat().st_size  # holes and all
    needed = max(copied, machine.space_taken(settings.target) * vector_index.DISK_FACTOR)
    free = machine.free_disk(settings.target.parent)
    if free < needed:
        raise DiskError(f"{settings.target.parent} has {free:,} bytes free, and an index needs {needed:,}")
    return engine


def _download(choice: selection.Choice) -> str:
    program = f"import {choice.module} as e; e.Connection(e.Database(':memory:')).execute('INSTALL VECTOR')"
    return f'{packages.starting(choice.interpreter.python)} -c "{program}"'


def _build(files: Files, opened: IO[bytes], settings: Settings, choice: selection.Choice, workers: WorkerPool) -> None:
    copy = files.indexing
    discard(copy)
    with copy.open("xb") as file:
        copy.chmod(files.target.stat().st_mode)
        shutil.copyfileobj(opened, file)  # opening and closing the target once more would give up the lock
    size = machine.space_taken(copy)
    job = Job(task=Task.COUNT, target=str(copy), extension=str(settings.vector_extension or ""))
    job = job.within(limits_for(size))
    counted = _done(workers.do(job), files)
    made = _done(workers.do(replace(job, task=Task.INDEX), limit_s=max(_LEAST_S, size / 1e6 * _SECONDS_PER_MB)), files)
    if made.facts["counts"] != counted.facts["counts"] or not is_closed(copy):
        raise EngineError(f"the rows of {files.target} are not the same with an index; it stays as it was")
    for reader in choice.readers:
        limits = job.pool_bytes, job.address_space_bytes
        counts, problem = reader_check.count(reader, copy, limits, workers.stop, _LEAST_S)
        if counts is None:
            raise EngineError(f"the reader {reader} cannot open it with an index ({problem}); it stays as it was")


def _done(answer: WorkerResult, files: Files) -> WorkerResult:
    if not answer.ok:
        raise EngineError(f"no vector index: {answer.message}; {files.target} stays as it was")
    return answer


def _swap(files: Files, engine: Mapping[str, Any]) -> Path:
    sync(files.indexing)
    backup = files.backup(time.time())
    try:
        os.link(files.target, backup)
    except OSError:  # a file system without
        files.target.rename(backup)
    files.indexing.replace(files.target)
    sync(files.target.parent)
    _note(files, engine)
    return backup


def _note(files: Files, engine: Mapping[str, Any]) -> None:
    """Tell the state file what the target is now."""
    data: dict[str, Any] = target_state.read(files)
    if data.get("file"):
        data |= target_state.stamps_of(files.target)
        data["versions"] = {**data.get("versions", {}), "engine": dict(engine)}
        replace_text(files.state, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
