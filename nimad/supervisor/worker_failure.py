"""The error that a failed worker means for the user."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nimad.config import command
from nimad.errors import (
    BatchFailedError,
    CannotWriteError,
    DiskError,
    EngineError,
    ExitCode,
    NimadError,
    RefusedError,
    SourceError,
)
from nimad.host import machine
from nimad.state.provenance import source_of
from nimad.supervisor.outcome import CIRCUMSTANTIAL, FailureKind, WorkerResult


class ExhaustedError(BatchFailedError):
    """No try succeeded; `answer` is the last one's."""

    def __init__(self, answer: WorkerResult, attempts: int) -> None:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"a batch failed after {times}: {answer.message}; {_advice(answer)}")
        self.answer, self.attempts = answer, attempts


def error_of(answer: WorkerResult, attempts: int = 1) -> NimadError:
    """The error that a failed answer means for the user."""
    message, make = answer.message, _ERRORS.get(answer.kind)
    if make is not None:
        return make(message)
    if answer.kind in (FailureKind.SOURCE, FailureKind.SOURCE_BUSY):
        error = SourceError(message)
        error.exit_code = ExitCode(answer.facts.get("exit_code", SourceError.exit_code))
        return error
    return ExhaustedError(answer, attempts)


_ERRORS: dict[FailureKind | None, Callable[[str], NimadError]] = {
    FailureKind.ENGINE_MISSING: EngineError,
    FailureKind.DISK: DiskError,
    FailureKind.SCHEMA: lambda message: RefusedError(
        f"the columns of the source are no longer those this run began with ({message}); start over with --restart"
    ),
    FailureKind.STRICT: lambda message: RefusedError(
        f"stopped by --strict at a row that would be quarantined: {message}; correct it in the source, "
        "or run without --strict"
    ),
    FailureKind.STORAGE_VERSION: lambda message: EngineError(
        f"the unfinished target belongs to another release of LadybugDB ({message}); install that one again, or throw "
        "the unfinished target away with --restart"
    ),
    FailureKind.NOT_ALLOWED: lambda message: CannotWriteError(
        f"the engine may not write where the target is to be ({message}); change the permissions, or choose another "
        "place with --target"
    ),
    FailureKind.ADDRESS_SPACE: lambda message: RefusedError(
        f"the engine may not take the address space that it needs ({message}); raise the limit (ulimit -v unlimited)"
    ),
}


def with_holder(answer: WorkerResult, target: Path) -> WorkerResult:
    """A lock with the process that has it, which engines before 0.18 do not say; any other result as it is."""
    if answer.kind is not FailureKind.LOCKED or "PID" in answer.message:
        return answer
    holder = machine.holder_of(target) or "unknown"
    return replace(answer, message=f"{answer.message} (held by PID {holder})")


def to_recover(target: Path) -> RefusedError:
    """The error of a target that opens for writing only, where nothing is to be written."""
    source = source_of(target)
    again = command.line("migrate", *(("--source", source) if source else ()), "--target", target)
    return RefusedError(f"a program was killed in the middle of a checkpoint of {target}; recover it with: {again}")


def _advice(answer: WorkerResult) -> str:
    if answer.kind is FailureKind.LOCKED:
        return "close the program that has the unfinished target open"
    if answer.kind in CIRCUMSTANTIAL:
        return "free some memory, or try a smaller --batch-size"
    return "the log file has what the worker said last; run again once its cause is fixed"
