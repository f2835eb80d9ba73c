"""Which engine writes: the newest one whose files every known reader can open.

A file of LadybugDB opens only in an engine whose storage version is at least the file's. The agent reads with the
engine of its own interpreter, so that one is asked, and the workers run with another engine, or in another
interpreter, where ours would be too new for it.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nimad.config import Settings
from nimad.config.settings import AUTO
from nimad.engines.interpreter import Interpreter
from nimad.engines.packages import MODULE, REQUIREMENTS, VERSION_RANGE, in_range, install, pip
from nimad.engines.probe_script import NAMESAKE
from nimad.host import folders, rights
from nimad.state.provenance import MadeWith

#: What a version looks like, and a number that no storage version comes near.
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,40}")
_MANY = 10**6
#: Interpreters of the agent, below its owner's home, and the system's.
_AGENTS = (".openclaw/workspace/.venv/bin/python", ".nima/.venv/bin/python")
_SYSTEM = Path("/usr/bin/python3")
#: The oldest Python that runs a worker.
_LEAST_PYTHON = (3, 11)
#: Readers that are asked, and lines about those that are not.
MOST_READERS, _MOST_TOLD = 8, 16
#: Seconds in which an interpreter has to say what it has: a cold import on a Pi with a slow card takes some ten.
ASKING_S = 60.0


@dataclass(frozen=True)
class FoundEngine:
    """One engine in one interpreter. `storage_version`: of the files it writes, and the newest that it opens."""

    interpreter: Interpreter
    module: str
    version: str
    storage_version: int
    python: tuple[int, ...]
    pyarrow: bool

    def __str__(self) -> str:
        where = "" if self.is_ours else f" of {self.interpreter.python}"
        return f"{self.module} {self.version}{where} (storage version {self.storage_version})"

    @property
    def is_ours(self) -> bool:
        return self.interpreter.is_ours

    @property
    def can_write(self) -> bool:
        return in_range(self.version) and self.python >= _LEAST_PYTHON

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.interpreter.python,
            "module": self.module,
            "version": self.version,
            "storage_version": self.storage_version,
        }


@dataclass(frozen=True)
class Choice:
    """Who reads, and with what the workers write."""

    interpreter: Interpreter = field(default_factory=Interpreter)
    module: str = MODULE
    readers: tuple[FoundEngine, ...] = ()
    unusable: tuple[str, ...] = ()  # interpreters whose engine does not answer, and why
    why: str = "no reader was found"
    refusal: str = ""  # why nothing that is here would do

    @property
    def oldest(self) -> FoundEngine | None:
        """The reader that opens the least."""
        return min(self.readers, key=lambda reader: reader.storage_version, default=None)

    def cannot_open(self, storage_version: int) -> FoundEngine | None:
        """A reader that cannot open files of a storage version."""
        return self.oldest if self.oldest and self.oldest.storage_version < storage_version else None


def choose_engine(settings: Settings, memory: Path, before: MadeWith, stop: threading.Event) -> Choice:
    """Ask the readers what they open, and choose the engine that writes.

    `memory`: a file of who owns it; `before`: what the run was told that made the target.
    """
    rights.check_own(memory)
    readers: list[FoundEngine] = []
    interpreters, unusable = _readers(settings, before)
    for interpreter in interpreters:
        engines, problems = look_for_engines(interpreter, stop)
        if settings.reader_python and not engines and not problems:
            problems = [f"{interpreter.python} has no engine"]
        # An agent may import either: what the older one opens, both do.
        readers += sorted(engines, key=lambda engine: engine.storage_version)[:1]
        unusable += problems
    found = Choice(readers=tuple(readers), unusable=tuple(unusable))
    if found.oldest is None and settings.engine_python is None:  # then there is nothing to compare it with
        module = MODULE if settings.engine == AUTO else settings.engine
        return Choice(module=module, unusable=found.unusable, why=_why(settings, None))
    return _among(_candidates(settings, readers, stop), found, settings)


def _readers(settings: Settings, before: MadeWith) -> tuple[list[Interpreter], list[str]]:
    """The interpreters that may be the agent's, or the one that was named; and why others are not asked."""
    if settings.no_reader:
        return [], []
    if settings.reader_python is not None:
        return [named(settings, "reader_python", settings.reader_python)], []
    known = [*(Path.home() / name for name in _AGENTS), _SYSTEM]
    # A state file names no program that others than its reader can change: a known place, or one that is ours.
    named_before = [place for place in before.readers if place in known or folders.is_ones_own(place)]
    # Known places first: of too many, those that are left out are the state file's.
    found = [place for place in dict.fromkeys([*known, *named_before]) if os.access(place, os.X_OK)]
    ours = [place for place in found if rights.may_run(place)]
    unusable = [
        *(
            f"{place}: not root's alone, and root does not run it; add --user NAME"
            for place in found
            if place not in ours
        ),
        *_unusable_before(before.readers, named_before),
        *(f"{place}: no more than {MOST_READERS} interpreters are asked" for place in ours[MOST_READERS:]),
    ]
    return [Interpreter(str(place)) for place in ours[:MOST_READERS]], unusable[:_MOST_TOLD]


def _unusable_before(readers: Sequence[Path], usable: Sequence[Path]) -> Iterator[str]:
    for place in readers:
        if not place.exists():
            yield f"{place}: it read this memory before, and is gone"
        elif place not in usable:
            yield f"{place}: others can change it, so it is not asked; name it with --reader-python"


def _writer(settings: Settings) -> Interpreter:
    if settings.engine_python is None:
        return Interpreter()
    return named(settings, "engine_python", settings.engine_python)


def named(settings: Settings, name: str, python: Path) -> Interpreter:
    """The interpreter that a setting names. Raises where it cannot be run, or root does not run it."""
    if not python.is_file() or not os.access(python, os.X_OK):
        settings.refuse(
            name, f"{python} is no program that can be run; name an interpreter, as ~/.nima/.venv/bin/python"
        )
    if not rights.may_run(python):
        settings.refuse(name, f"{python} is not root's alone, and root does not run it; add --user NAME")
    return Interpreter(str(python))


def look_for_engines(interpreter: Interpreter, stop: threading.Event) -> tuple[list[FoundEngine], list[str]]:
    """The engines of an interpreter, and what is wrong with those that do not answer."""
    answers, ended = interpreter.ask(stop, ASKING_S, "engines", *REQUIREMENTS)
    problems = [f"{interpreter.python}: {ended}"] if ended else []
    engines = []
    try:
        for answer in answers:
            if "version" in answer:
                engines.append(_engine(interpreter, answer))
            elif answer["problem"] != "missing":
                problems.append(f"{interpreter.python}: {_problem(answer)}")
    except (KeyError, TypeError, ValueError, AttributeError):
        answers = []
    if not ended and len(answers) < len(REQUIREMENTS):
        problems.append(f"{interpreter.python}: its answer cannot be understood")
    return engines, problems


def _engine(interpreter: Interpreter, answer: Mapping[str, Any]) -> FoundEngine:
    python = tuple(int(part) for part in answer["python"].split("."))
    if answer["module"] not in REQUIREMENTS or not _VERSION.fullmatch(answer["version"]):
        raise ValueError
    if type(answer["storage_version"]) is not int or not 0 <= answer["storage_version"] < _MANY:
        raise ValueError
    known = {name: answer[name] for name in ("module", "version", "storage_version", "pyarrow")}
    return FoundEngine(interpreter=interpreter, python=python, **known)


def _problem(answer: Mapping[str, Any]) -> str:
    if answer["problem"] == "namesake":
        return f"its {answer['module']} is {NAMESAKE} {answer['namesake']}, a weather-file library and no database"
    if answer["problem"] == "another":
        return f"its {answer['module']} is another package and no database"
    return f"its {answer['module']} cannot be used ({answer['problem']})"


def _candidates(settings: Settings, readers: Sequence[FoundEngine], stop: threading.Event) -> list[FoundEngine]:
    """Engines that could write: ours or the named interpreter's, then the readers' own."""
    found, _ = look_for_engines(_writer(settings), stop)
    return [*found, *(readers if settings.engine_python is None else ())]


def _among(candidates: Sequence[FoundEngine], found: Choice, settings: Settings) -> Choice:
    asked = [engine for engine in candidates if engine.can_write and settings.engine in (AUTO, engine.module)]
    fitting = [engine for engine in asked if not found.cannot_open(engine.storage_version)]
    # Of equals ours, which has pyarrow for certain; then one that has it.
    best = max(fitting, key=lambda e: (e.storage_version, e.is_ours, e.pyarrow), default=None)
    if best is not None:
        return Choice(best.interpreter, best.module, found.readers, found.unusable, _why(settings, found.oldest))
    newest = max(asked, key=lambda engine: engine.storage_version, default=None)
    would_do = _fits(candidates, found) or settings.engine_python is not None
    refusal = _refusal(newest, found, settings, would_do=would_do)
    return Choice(readers=found.readers, unusable=found.unusable, why="", refusal=refusal)


def _fits(candidates: Sequence[FoundEngine], found: Choice) -> bool:
    return any(engine.can_write and not found.cannot_open(engine.storage_version) for engine in candidates)


def _why(settings: Settings, oldest: FoundEngine | None) -> str:
    if settings.engine != AUTO or settings.engine_python:
        return "it was asked for"
    if oldest is None:
        return "no reader was found" if not settings.no_reader else "no reader is to be looked for"
    return "the newest engine here whose files every reader opens"


def _refusal(newest: FoundEngine | None, found: Choice, settings: Settings, *, would_do: bool) -> str:
    oldest = found.oldest
    if newest is None or oldest is None:
        wanted = f"the engine {settings.engine}" if settings.engine != AUTO else "an engine"
        low, high = (".".join(map(str, version)) for version in VERSION_RANGE)
        where = settings.engine_python or sys.executable
        return (
            f"{where} does not have {wanted} of a release from {low} and below {high} with Python "
            f"{'.'.join(map(str, _LEAST_PYTHON))} or newer. "
            f"Install: {install(MODULE if settings.engine == AUTO else settings.engine, str(where))}"
        )
    return mismatch(str(newest), oldest, without_options=would_do)


def mismatch(writer: str, reader: FoundEngine, *, without_options: bool = False) -> str:
    """That a reader cannot open what is written, and the ways out."""
    ways = ways_out(reader, reader.storage_version + 1, without_options=without_options)
    return f"the reader {reader} cannot open what {writer} writes. {ways}"


def ways_out(reader: FoundEngine, storage_version: int, *, without_options: bool = False) -> str:
    """What to do about a reader that cannot open a file of a storage version."""
    other = "If another interpreter reads this memory, name it with --reader-python"
    if reader.storage_version >= storage_version:  # it should have opened it
        return f"Repair that interpreter and run again. {other} ('none' asks no interpreter)"
    older = f"{pip()} install '{REQUIREMENTS['real_ladybug']}', then run again"
    if without_options:
        older = "run again without --engine and --engine-python"
    return f"Either upgrade the reader: {upgrade(reader)}; or write with the older engine: {older}. {other}"


def upgrade(reader: FoundEngine) -> str:
    """The command that gives a reader the newest engine."""
    python = reader.interpreter.python
    command = install(MODULE, python)
    if reader.module == MODULE:
        return command
    package = REQUIREMENTS[reader.module].partition("==")[0]  # which would still be found, and read no more than before
    return f"{pip(python)} uninstall -y {package} && {command} (with a nima-core that imports {MODULE})"
