"""Pages of 16 KiB, as a Raspberry Pi 5 has them: the engine of the guide reports its error, and the run ends complete.

`pages16k.c` makes every worker meet such pages. `real-ladybug` 0.15.3 gets an environment of its own, and what it wrote
is read back by itself. It is given pyarrow; its worker needs nothing else beside the standard library. No polars, whose
allocator aborts on pages that it was not built for.
"""

import json
import random
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import nimad as run_command
from support.environments import OLDEST, Environment, MakeEnvironment, read_with
from support.memories import (
    ENGINE_LIMITS,
    Hurried,
    Run,
    assert_same,
    edge,
    make_memory,
    migrate,
    node,
    turn,
    vector,
)
from support.torture import assert_nothing_left, interrupted, target_of

import nimad
from nimad.config import Settings
from nimad.engines.interpreter import Interpreter
from nimad.errors import ExitCode, RefusedError
from nimad.events.run import BatchFailed, BatchLoaded, Compacted, EngineComplained, Event, PoolRaised, Published
from nimad.host import machine
from nimad.migration import prepare, repair
from nimad.report.listener import JsonListener
from nimad.report.log.sinks import Log
from nimad.source.survey import Survey
from nimad.supervisor.plan import MIB, Plan, make_plan

PAGE_BYTES = 16_384
#: What the guide's users saw, word for word.
GUIDES_ERROR = "Buffer manager exception: Releasing physical memory associated with a frame failed with error code -1"

#: A pool that is smaller than the file, and the memory for it: texts that no compression makes smaller.
SMALL_POOL = 128 * MIB
TEXT_BYTES = 24_576
LARGE_NODES = 5_600


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim") / "pages16k.so")


def compiled(library: Path, *options: str) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc, which makes the library that stands in for a kernel with pages of 16 KiB")
    source = Path(__file__).with_name("pages16k.c")
    subprocess.run([compiler, *options, "-O2", "-fPIC", "-shared", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def large_pages(monkeypatch: pytest.MonkeyPatch, shim: Path) -> None:
    """Pages of 16 KiB for whatever is started from here, and for the plan, which is made in this process."""
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setattr(machine, "page_bytes", lambda: PAGE_BYTES)


@pytest.fixture(scope="module")
def old(make_environment: MakeEnvironment) -> Environment:
    """An environment with the engine of the guide."""
    return make_environment(OLDEST, lend=["pyarrow"])


@pytest.fixture
def old_python(tmp_path: Path, shim: Path, old: Environment) -> Path:
    """Its interpreter, which loads the library by itself: a program that is not ours gets no `LD_PRELOAD` of ours."""
    started = tmp_path / "python_on_large_pages"
    started.write_text(f'#!/bin/sh\nLD_PRELOAD={shlex.quote(str(shim))} exec {shlex.quote(str(old.python))} "$@"\n')
    started.chmod(0o755)
    return started


@pytest.mark.parametrize("whose", ["ours", "the guide's"])
def test_the_workers_meet_large_pages(
    large_pages: None,  # noqa: ARG001 - sets the scene
    old_python: Path,
    whose: str,
) -> None:
    """Else everything below would prove nothing."""
    python = Interpreter() if whose == "ours" else Interpreter(str(old_python))
    program = (
        "import ctypes, mmap, os, sys; libc = ctypes.CDLL(None, use_errno=True); area = mmap.mmap(-1, 1 << 16)\n"
        "start = ctypes.addressof(ctypes.c_char.from_buffer(area)); start += -start % 16384\n"
        "advise = lambda at: libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(4096), 4) and ctypes.get_errno()\n"
        "print(os.sysconf('SC_PAGE_SIZE'), advise(start), advise(start + 4096))\n"
    )
    done = subprocess.run([python.python, "-c", program], capture_output=True, env=python.environment(), check=True)
    assert done.stdout == b"16384 0 22\n", "EINVAL only where the address is on no page of 16 KiB"


def test_the_engine_of_the_guide_reports_its_error_and_the_run_ends_complete(
    tmp_path: Path,
    large_pages: None,  # noqa: ARG001 - sets the scene
    old: Environment,
    old_python: Path,
) -> None:
    source = memory(tmp_path / "graph.sqlite")
    ran = migrate_logged(source, batch_size=100, engine_python=old_python)

    assert ran.result.exit_code == ExitCode.COMPLETE
    assert ran.result.migrated == 300
    assert ran.all(EngineComplained), "the engine was to report the error"
    assert all(event.message.startswith(GUIDES_ERROR) for event in ran.all(EngineComplained))
    log = (tmp_path / "migration.log").read_text()
    assert (
        f"[WARN] The engine reports an error after writing; the next process counts what arrived: {GUIDES_ERROR}" in log
    )
    assert "Migration completed successfully" in log
    state = json.loads((tmp_path / "graph.ladybug.state.json").read_text())
    assert state["versions"]["engine"]["version"] == "0.15.3"
    assert_nothing_left(ran.target)
    assert_same(source, ran.target, there=read_with(old.engine("real_ladybug"), ran.target))


@pytest.fixture(scope="module")
def seen_as_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim") / "seen_as_small.so", "-DSEEN_AS_SMALL")


def memory(path: Path) -> Path:
    """Three batches of nodes, with embeddings, edges and turns."""
    numbers = random.Random(1)
    layers = ("input", "contemplation", "output")
    return make_memory(
        path,
        nodes=[
            node(
                key,
                layer=layers[key % 3],
                text=numbers.randbytes(1_500).hex() if key % 7 else "",
                summary=None if key % 5 else f"naïve «{key}» 🙂",
                fe_score=numbers.random(),
                embedding=vector(*(numbers.uniform(-1, 1) for _ in range(16))) if key % 4 else None,
                is_ghost=key % 2,
            )
            for key in range(1, 301)
        ],
        edges=[edge(key, key, 301 - key, weight=numbers.random()) for key in range(1, 201)],
        turns=[turn(key, key, None if key % 3 else key + 1, key + 2) for key in range(1, 151)],
    )


def two_memories(path: Path) -> Path:
    return make_memory(path, nodes=[node(1), node(2)], edges=[edge(1, 1, 2)])


def unfinished(path: Path) -> Path:
    """A memory of which an earlier run copied some, on a kernel with small pages."""
    interrupted(memory(path), BatchLoaded, nth=2, batch_size=20, fixed_batch=True)
    return path


def to_be_replaced(path: Path) -> Path:
    migrate(two_memories(path), verify="none")
    return path


#: Memories by what a run finds, and how it is asked.
STANDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "two memories": (two_memories, {}),
    "embeddings and turns, in small batches": (memory, {"batch_size": 20, "fixed_batch": True}),
    "an unfinished target": (unfinished, {}),
    "a finished target that is to be replaced": (to_be_replaced, {"replace": True}),
}


@pytest.mark.parametrize("stand", STANDS)
def test_an_engine_that_fails_at_each_checkpoint_is_the_cause_and_not_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen_as_small: Path, stand: str
) -> None:
    """Any engine does that takes the pages for smaller ones than they are."""
    make, asked = STANDS[stand]
    source = make(tmp_path / "graph.sqlite")
    target = target_of(source)
    before = target.read_bytes() if target.exists() else None
    monkeypatch.setenv("LD_PRELOAD", str(seen_as_small))
    monkeypatch.setattr(repair, "REPAIRS", 1)
    with pytest.raises(RefusedError, match="fails at each checkpoint") as told:
        migrate(source, clock=Hurried(), **asked)
    assert "Releasing physical memory" in str(told.value)
    assert "kernel=kernel8.img" in str(told.value)
    assert "pip install" in str(told.value)
    assert "dmesg" not in str(told.value)
    assert (target.read_bytes() if target.exists() else None) == before


# A reader that will fail by itself


@pytest.mark.sampled
@pytest.mark.parametrize("known", ["named", "found at the agent's", "remembered from the run before"])
def test_a_reader_that_will_fail_at_its_first_write_is_foretold_by_each_command(
    tmp_path: Path, shim: Path, make_environment: MakeEnvironment, known: str
) -> None:
    place = tmp_path / (".openclaw/workspace/.venv" if known.startswith("found") else "agent")
    place.parent.mkdir(parents=True, exist_ok=True)
    python = make_environment(OLDEST, at=place).python
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)])
    words: list[str | Path] = ["--source", source]
    if known == "named":
        words += ["--reader-python", python]
    if known.startswith("remembered"):
        assert run_command(tmp_path, "migrate", *words, "--reader-python", python).code == ExitCode.COMPLETE
    foretold = f"real_ladybug 0.15.3 of {python} (storage version 40) reads this memory, and will fail at its first"
    for command in (["doctor"], ["migrate", "--dry-run"], ["migrate", "--replace"]):
        said = run_command(tmp_path, *command, *words, LD_PRELOAD=str(shim))
        told = " ".join(said.out.split())
        assert foretold in told, said
        assert "pip uninstall -y real-ladybug" in told
        assert "kernel=kernel8.img" in told
        silent = run_command(tmp_path, *command, *words)
        assert "will fail at its first write" not in silent.out, "on pages of 4 KiB it does not"


def migrate_logged(source: Path, **settings: Any) -> Run:
    """Migrate as the command does, with a log file."""
    heard: list[Event] = []
    log = Log("INFO", None, source)
    tell = JsonListener(log)

    def listen(event: Event) -> None:
        heard.append(event)
        tell(event)

    try:
        return Run(nimad.migrate(Settings(source=source, **settings), listen), heard)
    finally:
        log.close()


@pytest.fixture(scope="module")
def large_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    numbers = random.Random(1)
    path = tmp_path_factory.mktemp("large") / "graph.sqlite"
    nodes = (node(key, text=numbers.randbytes(TEXT_BYTES // 2).hex()) for key in range(1, LARGE_NODES + 1))
    yield make_memory(path, nodes=nodes)
    shutil.rmtree(path.parent)


@pytest.mark.long
def test_a_file_larger_than_the_pool_ends_complete(
    large_memory: Path,
    large_pages: None,  # noqa: ARG001 - sets the scene
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On such pages 0.22 finds its pool full in a checkpoint; every next worker gets a larger one."""

    def begin_small(settings: Settings, survey: Survey) -> Plan:
        return replace(make_plan(settings, survey), pool_bytes=SMALL_POOL)

    monkeypatch.setattr(prepare, "make_plan", begin_small)
    ran = migrate(large_memory, clock=Hurried())
    assert ran.result.exit_code == ExitCode.COMPLETE
    assert ran.only(Published).size > SMALL_POOL
    assert [event.pool for event in ran.all(PoolRaised)] == sorted({event.pool for event in ran.all(PoolRaised)})
    assert all("buffer pool is full" in event.message for event in ran.all(BatchFailed))
    assert ran.all(EngineComplained) == [], "this engine has no trouble with giving memory back"
    assert not [event for event in ran.all(Compacted) if event.after > event.before]
    monkeypatch.setitem(ENGINE_LIMITS, "buffer_pool_size", 1024 * MIB)
    assert_same(large_memory, ran.target)
