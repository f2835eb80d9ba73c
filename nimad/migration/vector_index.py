"""The vector index, built in a copy of the verified target that replaces it once the index answers.

Never fatal: without it, exact search works. A table with such an index can be written to only by a program that loads
the extension, so every reader has to be able to.
"""

import os
import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from nimad.config import command
from nimad.engines.selection import ASKING_S, Choice
from nimad.errors import EngineError
from nimad.events.run import Indexed, NotIndexed
from nimad.host import machine, rights
from nimad.host.disk import discard, is_closed, sync
from nimad.migration import batch_retry, reader_check
from nimad.migration.context import Context
from nimad.supervisor.outcome import WorkerResult
from nimad.worker.protocol import Task

#: Where the engine installs its extensions, below the home: release, platform, name (extension.cpp of 0.22.0).
_INSTALLED = ".lbdb/extension"
_FILE = "*/vector/*.lbug_extension"
#: Disk that a copy with an index takes, against the file: the index holds each embedding's neighbours.
DISK_FACTOR = 2


def index_if_possible(context: Context) -> None:
    """Make the index in the staging file, or say why not and leave the file as it is."""
    settings = context.settings
    if settings.vector_index == "off":
        return
    version = str(context.state.engine["version"])
    why_not = find(version, settings.vector_extension) or _obstacle(context)
    if not why_not:
        with context.phase("indexing"):
            why_not = _build(context)
    later = command.line("index", "--target", settings.target)
    context.listener(NotIndexed(why_not, later) if why_not else Indexed())


def find(version: str, extension: Path | None) -> str:
    """Why there is no extension to try for this release of the engine; empty where there is one."""
    minor = ".".join(version.split(".")[:2])
    if extension is None:
        folder = Path.home() / _INSTALLED
        found = list(folder.glob(f"{minor}.*/{_FILE}"))
        if not found:
            return f"the VECTOR extension of LadybugDB {version} is not installed"
        return _not_to_be_loaded(found)
    if not extension.is_file():
        return f"there is no {extension}"
    if why_not := _not_to_be_loaded([extension]):
        return why_not
    if not any(re.fullmatch(rf"v?{re.escape(minor)}\.\d+", part) for part in extension.parts):
        return (
            f"{extension} does not say that it is made for LadybugDB {minor}, by a folder of its path called {minor}.0 "
            "or alike, and one of another release can crash"
        )
    return ""


def _not_to_be_loaded(extensions: Sequence[Path]) -> str:
    """Which library would run as root although others may have written it."""
    for extension in extensions:
        if not rights.may_run(extension):
            return f"{extension} is not root's alone, and root does not load it"
    return ""


def _obstacle(context: Context) -> str:
    needed = machine.space_taken(context.files.staging) * DISK_FACTOR
    free = machine.free_disk(context.files.staging.parent)
    if free < needed:
        return f"{needed:,} bytes of disk needed, {free:,} free"
    return readers_obstacle(context.choice, context.settings.vector_extension, context.workers.stop)


def readers_obstacle(choice: Choice, extension: Path | None, stop: threading.Event) -> str:
    """Which reader could not write to a table with such an index, because it cannot load the extension."""
    for reader in choice.readers:
        answers, ended = reader.interpreter.ask(stop, ASKING_S, "extension", reader.module, str(extension or ""))
        if not answers or "problem" in answers[0]:
            why = answers[0]["problem"] if answers else ended
            return f"the reader {reader} could not write to the table then: it cannot load the VECTOR extension ({why})"
    return ""


def _build(context: Context) -> str:
    """Make the index in a copy and put that in the staging file's place; why not, where that fails."""
    staging, copy = context.files.staging, context.files.indexing
    discard(copy)
    try:
        copy_private(staging, copy)
        extension = str(context.settings.vector_extension or "")
        answer = batch_retry.quietly(context, context.job(Task.INDEX, target=str(copy), extension=extension))
        if why_not := _why_not(context, answer):
            return why_not
        sync(copy)
        context.state.indexed = True  # before it is: what has an index is not gone on with
        context.state.write()
        copy.replace(staging)
        sync(staging.parent)
    except OSError as error:
        return f"{error.filename or copy}: {error.strerror}"
    finally:
        discard(copy)
    return ""


def _why_not(context: Context, answer: WorkerResult) -> str:
    """Whether the copy is what it was but for its index: every table of the same count, every value the same."""
    copy = context.files.indexing
    if not answer.ok:
        return answer.message
    if not is_closed(copy):
        return "the engine left a log beside the file"
    try:
        reader_check.check(context, copy)
    except EngineError as error:
        return str(error)
    counted = {name: count["rows"] for name, count in answer.facts["counts"].items()}
    if counted != context.counted:
        return f"with it the file holds {counted}, and without {context.counted}"
    if context.state.brought:  # then it holds more than SQLite's rows, and their number has to do
        return ""
    job = context.job(Task.VERIFY, target=str(copy), bounds=context.bounds(), quarantine="")
    compared = batch_retry.quietly(context, job)
    if not compared.ok:
        return compared.message
    differs = any(compared.facts[name] for name in ("damages", "wrong", "missing"))
    return "the rows are not the same with it" if differs else ""


def copy_private(path: Path, copy: Path) -> None:
    """Copy a file into a new one that is its owner's alone from the first byte."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with path.open("rb") as source, os.fdopen(os.open(copy, flags, 0o600), "wb") as made:
        shutil.copyfileobj(source, made)
