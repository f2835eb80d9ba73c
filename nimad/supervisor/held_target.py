"""A published target that is kept closed while its replacement is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nimad.errors import RefusedError
from nimad.host import machine
from nimad.host.disk import is_closed
from nimad.state import names, target_state
from nimad.state.paths import Files, held
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import limits_for
from nimad.supervisor.retry import with_larger_pools
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Job, Task


def take_in_log(files: Files, workers: WorkerPool) -> None:
    """Take in the log that late arrivals left. Anybody else's is for them to take in."""
    made, logs = target_state.of_target(files), target_state.logs_of(files.target)
    if not logs or made.get("log") != logs:
        return
    if replay(files.target, workers).ok:
        target_state.note(files, made, target_state.stamps_of(files.target))


def replay(name: Path, workers: WorkerPool, *, last: bool = False) -> WorkerResult:
    """Have the engine open a target for writing by one of its names, which takes in the log beside that one."""
    job = Job(task=Task.COUNT, target=str(name), writable=True)
    taken = machine.space_taken(name)
    return with_larger_pools(lambda grown: workers.do(job.within(limits_for(taken, grown=grown)), last=last))


@contextmanager
def held_closed(files: Files, *, readers: bool = False) -> Iterator[IO[bytes]]:
    """Keep the target from being opened, with `readers` for writing only, by the lock that the engine itself takes.

    Raises `RefusedError` where a program has it open, or left a log by any of its names.
    """
    with held(files.target, readers=readers) as file:
        names.check_names_closed(files, target_state.names_of(target_state.of_target(files)))
        if not is_closed(files.target):
            raise RefusedError(
                f"{files.target} was not closed by the program that wrote to it; let that open and close it"
            )
        yield file
