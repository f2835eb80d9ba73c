"""Interpreters with other engines, made from the package index, and questions to the engine in them.

>>> reader = make_environment("real-ladybug==0.15.3")           # a fixture of conftest.py
>>> reader = make_environment("real-ladybug==0.15.3", at=home / ".nima/.venv", lend=["pyarrow"])
>>> with opened(reader.engine("real_ladybug"), target) as ask:
...     ask("MATCH (n:MemoryNode) RETURN n.id")
>>> assert_same(source, target, there=read_with(engine, target))

Each package is fetched once; an environment has it by links, or as files of its own where a test spoils them.
"""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import pytest

from support.memories import LINKS, Memory, vector

NAMESAKE = "ladybug-core==0.44.62"
#: Requirement of each engine, the oldest first, and its import name.
ENGINES = {
    "real-ladybug==0.15.3": "real_ladybug",
    "ladybug==0.18.3": "ladybug",
    "ladybug==0.20.4": "ladybug",
    "ladybug==0.22.0": "ladybug",
}
OLDEST, NEWEST = next(iter(ENGINES)), list(ENGINES)[-1]


@dataclass(frozen=True)
class Engine:
    """An engine as a process can be started with it."""

    python: Path
    module: str


#: The engine of the environment that runs the tests.
OURS = Engine(Path(sys.executable), "ladybug")


@dataclass(frozen=True)
class Environment:
    """A virtual environment without pip."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def packages(self) -> Path:
        (found,) = (self.folder / "lib").glob("python3.*/site-packages")
        return found

    def engine(self, module: str) -> Engine:
        return Engine(self.python, module)

    def append(self, package: str, code: str) -> None:
        """Add code to the end of a package's `__init__.py`; the package's files have to be the environment's own."""
        with (self.packages / package / "__init__.py").open("a") as file:
            file.write(f"\n{code}\n")

    def write(self, package: str, code: str) -> None:
        """Make a package that consists of this code."""
        (self.packages / package).mkdir()
        (self.packages / package / "__init__.py").write_text(code)

    def at_start(self, code: str) -> None:
        """Have the interpreter run this whenever it starts. A `sitecustomize` would be hidden by that of Debian."""
        (self.packages / "at_start.py").write_text(code)
        (self.packages / "at_start.pth").write_text("import at_start\n")


class MakeEnvironment(Protocol):
    def __call__(
        self, *requirements: str, at: Path | None = None, lend: Sequence[str] = (), own: bool = False
    ) -> Environment: ...


class Index:
    """Packages of the index, each fetched once."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._fetched: dict[str, Path] = {}

    def make(
        self, *requirements: str, at: Path | None = None, lend: Sequence[str] = (), own: bool = False
    ) -> Environment:
        """An environment with packages of the index, without what they need, and others lent by the tests' own.

        `own`: the packages are files and not links.
        """
        made = Environment(at or self._make_folder("environment"))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.folder], check=True)
        for requirement in requirements:
            for place in self._fetch(requirement).iterdir():
                put(place, made.packages, own=own)
        for name in lend:
            for place in top_level(name):
                put(place, made.packages, own=own)
        return made

    def _fetch(self, requirement: str) -> Path:
        if requirement not in self._fetched:
            folder = self._make_folder("package")
            words = ["install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"]
            pip = [sys.executable, "-m", "pip", *words, "--target", str(folder), requirement]
            done = subprocess.run(pip, capture_output=True, text=True, env=alone(os.environ), check=False)
            if done.returncode:
                pytest.skip(f"no {requirement}: {done.stderr.strip()[-300:]}")
            self._fetched[requirement] = folder
        return self._fetched[requirement]


def put(place: Path, folder: Path, *, own: bool = False) -> None:
    """Link or copy a package, module or metadata into an environment."""
    if place.name == "bin" or (folder / place.name).exists():
        return
    if not own:
        (folder / place.name).symlink_to(place)
    elif place.is_dir():
        shutil.copytree(place, folder / place.name)
    else:
        shutil.copy(place, folder)


def top_level(distribution: str) -> list[Path]:
    """The folders, modules and metadata that a distribution has put into site-packages."""
    found = metadata.distribution(distribution)
    names = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    return [Path(str(found.locate_file(name))) for name in sorted(names)]


def alone(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the variable that would lend more packages than were lent on purpose."""
    return {name: value for name, value in environ.items() if name != "PYTHONPATH"}


# Questions to another engine

_ANSWERS = """
import os, pickle, sys
from importlib import import_module
questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
engine = import_module(sys.argv[1])
limits = {"buffer_pool_size": 1 << 28, "max_db_size": 1 << 34, "max_num_threads": 2}
database = engine.Database(sys.argv[2], read_only=sys.argv[3] == "True", **limits)
connection = engine.Connection(database)
answers.write(b"+")
answers.flush()
while True:
    try:
        cypher, parameters = pickle.load(questions)
    except EOFError:
        break
    try:
        result = connection.execute(cypher, parameters or None)
        answer = result.get_all()
        result.close()
    except Exception as error:
        answer = str(error)
    pickle.dump(answer, answers)
    answers.flush()
connection.close()
database.close()
"""

_READY = b"+"

Ask = Callable[..., list[list[Any]]]


@contextmanager
def opened(engine: Engine, path: Path, *, read_only: bool = True) -> Iterator[Ask]:
    """A database opened by an engine in its own interpreter: a function that runs Cypher and gives rows."""
    with answering(engine, path, read_only=read_only) as (ask, _):
        yield ask


@contextmanager
def answering(engine: Engine, path: Path, *, read_only: bool) -> Iterator[tuple[Ask, "subprocess.Popen[bytes]"]]:
    """As `opened`, and the process, which a test may kill."""
    environment = {name: value for name, value in alone(os.environ).items() if name != "LD_PRELOAD"}
    environment["LC_ALL"] = "C.UTF-8"  # in a Turkish one an engine does not find its functions
    process = subprocess.Popen(
        [engine.python, "-c", _ANSWERS, engine.module, path, str(read_only)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
    )
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        if process.stdout.read(1) != _READY:
            raise AssertionError(f"{engine} does not open {path}: {process.stderr.read().decode()[-2_000:]}")

        def ask(cypher: str, **parameters: Any) -> list[list[Any]]:
            assert process.stdin
            assert process.stdout
            pickle.dump((cypher, parameters), process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
            assert isinstance(answer, list), f"{engine} says to {cypher}: {answer}"
            return answer

        yield ask, process


def read_with(engine: Engine, path: Path) -> Memory:
    """Everything a target holds, as `support.read_target`, but read by another engine.

    Embeddings pass through Python's floats, which makes a signalling NaN a quiet one.
    """
    with opened(engine, path) as ask:
        types = {
            table: {row[1]: row[2] for row in ask(f"CALL table_info('{table}') RETURN *")}
            for table in ("MemoryNode", "relates_to", "Turn")
        }
        edges = "(a:MemoryNode)-[n:relates_to]->(b:MemoryNode)"
        ends = {"source_id": "a.id", "target_id": "b.id"}
        return Memory(
            nodes=_rows(ask, "(n:MemoryNode)", types["MemoryNode"], "id"),
            edges=_rows(ask, edges, types["relates_to"], "edge_id", ends),
            turns=_rows(ask, "(n:Turn)", types["Turn"], "id"),
            links={
                kind: sorted(map(_pair, ask(f"MATCH (t:Turn)-[:{kind}]->(m:MemoryNode) RETURN t.id, m.id")))
                for kind in LINKS.values()
            },
        )


def _rows(
    ask: Ask, pattern: str, names: Iterable[str], key: str, ends: Mapping[str, str] | None = None
) -> dict[int, dict[str, Any]]:
    wanted = {name: f"n.`{name}`" for name in names} | dict(ends or {})
    found: dict[int, dict[str, Any]] = {}
    for values in ask(f"MATCH {pattern} RETURN {', '.join(wanted.values())}"):
        plain: list[Any] = [vector(*value) if isinstance(value, list) else value for value in values]
        row = dict(zip(wanted, plain, strict=True))
        assert row[key] not in found, f"{pattern} has {key} {row[key]} twice"
        found[row[key]] = row
    return found


def _pair(row: Sequence[Any]) -> tuple[int, int]:
    turn, node = row
    return turn, node
