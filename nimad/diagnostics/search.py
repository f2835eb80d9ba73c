"""Search in a finished target, in a worker process."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nimad.errors import UsageError
from nimad.host import machine
from nimad.state.paths import not_for_us
from nimad.state.provenance import not_there
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind
from nimad.supervisor.plan import ADDRESS_SPACE_FLOOR, MAX_THREADS, POOL_FLOOR
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Job, Task


def search(target: Path, text: str, like: int | None, limit: int) -> Sequence[Mapping[str, Any]]:
    """Memories that contain `text`, newest first, or those nearest in meaning to the memory `like`."""
    try:
        there = target.exists()
    except PermissionError as error:
        raise not_for_us(target, str(error.strerror)) from None
    if not there:
        raise not_there(target)
    job = Job(
        task=Task.SEARCH,
        target=str(target),
        pool_bytes=POOL_FLOOR,
        address_space_bytes=ADDRESS_SPACE_FLOOR,
        threads=min(machine.processors(), MAX_THREADS),
        text=text,
        like=like,
        limit=limit,
    )
    with WorkerPool(threading.Event()) as workers:
        answer = workers.do(job, last=True)
    if answer.kind is FailureKind.ENGINE_MISSING:
        raise worker_failure.error_of(answer)
    if answer.kind is FailureKind.NOT_ALLOWED:
        raise not_for_us(target, answer.message)
    if answer.kind is FailureKind.RECOVERY_PENDING:
        raise worker_failure.to_recover(target)
    if not answer.ok:
        raise UsageError(f"{target} cannot be asked ({answer.message}); name a finished target with --target")
    if why_not := answer.facts.get("why_not"):
        raise UsageError(f"{target}: {why_not}")
    hits: Sequence[Mapping[str, Any]] = answer.facts["hits"]
    return hits
