"""`python -m nimad.worker PARENT [MODULE [PRIORITY]]`: import the engine, wait for a job on stdin, do it, answer, exit.

The imports come before the wait, so that a worker that was started early is ready when its turn comes. One that only
said which engine it has waits for another job.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from nimad.engines.packages import MODULE
from nimad.errors import EngineError, SourceBusyError, SourceError
from nimad.host.disk import DISK_ERRORS
from nimad.worker import stacks
from nimad.worker.lifetime import settle
from nimad.worker.protocol import Failure, Job, JobError, Task

#: Of the arguments that may be left out.
_DEFAULTS = (MODULE, "normal")


def main() -> int:
    parent, module, priority = (*sys.argv[1:], *_DEFAULTS[len(sys.argv) - 2 :])
    answer = settle(int(parent), priority)
    stacks.install()
    try:
        perform = _prepare(module)
    except EngineError as error:
        sys.stdin.readline()
        return _say(answer, _failed(Failure.ENGINE, error))
    while (line := sys.stdin.readline()).endswith("\n"):
        job = Job.from_line(line)
        status = _say(answer, perform(job))
        if status or job.task is not Task.PROBE:
            return status
    return 0  # not needed after all, or the supervisor is gone


def _prepare(module: str) -> Callable[[Job], dict[str, Any]]:
    from nimad.target.engine import import_engine

    engine = import_engine(module)
    from nimad.target.database import UnopenedError
    from nimad.target.engine import has_arrow
    from nimad.worker.tasks import perform

    has_arrow()  # imported while there is time, and not once the job is there

    def work(job: Job) -> dict[str, Any]:
        try:
            return {"ok": True, **perform(job, engine)}
        except JobError as error:
            return {**_failed(error.failure, error), **error.facts}
        except SourceError as error:
            if isinstance(error.__cause__, MemoryError):  # of this process: fewer rows may do
                return _failed(Failure.UNEXPECTED, error.__cause__)
            failure = Failure.BUSY if isinstance(error, SourceBusyError) else Failure.SOURCE
            return {**_failed(failure, error), "exit_code": int(error.exit_code)}
        except UnopenedError as error:
            return _failed(Failure.UNOPENED, error)
        except RuntimeError as error:  # how the engine reports everything
            return _failed(Failure.TARGET, error)
        except OSError as error:
            failure = Failure.DISK if error.errno in DISK_ERRORS else Failure.TARGET
            return _failed(failure, _named(error, job.target))
        except Exception as error:  # noqa: BLE001 - the last line of defence: the stack goes to the log
            traceback.print_exc()
            return _failed(Failure.UNEXPECTED, error)

    return work


def _named(error: OSError, target: str) -> Exception:
    """The error with a place: what fails in writing to an open file names none, and all that we write is beside one."""
    return error if error.filename else OSError(f"{Path(target).parent}: {error.strerror or error}")


def _failed(failure: Failure, error: Exception) -> dict[str, Any]:
    text = str(error) or type(error).__name__
    return {"ok": False, "failure": str(failure), "message": " ".join(text.split())}


def _say(answer: TextIO, facts: dict[str, Any]) -> int:
    answer.write(json.dumps(facts) + "\n")
    answer.flush()
    return 0 if facts["ok"] else 1


def _leave(status: int) -> NoReturn:
    """End at once: files are closed and synced by now, and taking Python apart costs a fifth of a small job's time."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main())
