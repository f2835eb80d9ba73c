"""The engine: only the right one is used, only in children, and what those children are as processes.

Each wrong engine is a virtual environment of its own, made from the package index as a user would make it, with
nimad and its other packages lent from the environment that runs the tests.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.commands import Ran, children, environment, nimad, running
from support.environments import NAMESAKE, alone, put, top_level

import nimad as package
from nimad.sample import Sample, write_sample

#: What nimad needs besides the engine, and pip, which the message tells people to use.
LENT = ("click", "json5", "loguru", "pyarrow", "rich", "markdown-it-py", "mdurl", "pygments", "sdnotify", "pip")
RIGHT = "ladybug==0.22.0"
OLD = "real-ladybug==0.14.1"
WANTED = "'ladybug>=0.22,<0.23'"
#: What the long-lived process may have had in memory at once, in kB (DESIGN.md wants 40 MB of the service).
PEAK_KB = 60_000


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=60, dimension=8))
    return path


@pytest.fixture
def folder(sample: Path, tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.mkdir()
    shutil.copy(sample, path)
    return path


# Wrong engines


class Environment:
    """A virtual environment with nimad and without an engine."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin/python"
        (self.packages,) = (folder / "lib").glob("python3.*/site-packages")
        (self.packages / "nimad").symlink_to(Path(package.__file__).parent)
        for name in LENT:
            for place in top_level(name):
                put(place, self.packages)

    def install(self, *requirements: str) -> None:
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        subprocess.run([*pip, *requirements], check=True, env=alone(os.environ))

    def nimad(self, folder: Path, *words: str | Path) -> Ran:
        done = subprocess.run(
            [self.python, "-m", "nimad", *words],
            cwd=folder,
            env=alone(environment(folder)),
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Ran(folder, done.returncode, done.stdout.decode(), done.stderr.decode())

    def shell(self, line: str) -> None:
        subprocess.run(line, shell=True, check=True, capture_output=True, env=alone(os.environ))  # noqa: S602 - ours


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    def make(*requirements: str) -> Environment:
        made = Environment(tmp_path_factory.mktemp("venv"))
        if requirements:
            made.install(*requirements)
        return made

    return make


def assert_refused(done: Ran) -> str:
    """Fail unless the run ended with exit 69, one line and no file; return the line."""
    assert done.code == 69, done.err
    assert sorted(path.name for path in done.folder.iterdir()) == ["graph.sqlite"]
    assert "Starting migration" not in done.out
    return done.error


def assert_names(message: str, engine: Environment, *words: str) -> None:
    """What was found, in which folder, and the pip command of this very interpreter."""
    for word in (*words, str(engine.packages / "ladybug"), f"{engine.python} -P -m pip", WANTED):
        assert word in message


def test_no_engine_at_all(make: Callable[..., Environment], folder: Path) -> None:
    engine = make()
    message = assert_refused(engine.nimad(folder, "migrate", "--source", "graph.sqlite"))
    assert message == f"LadybugDB not available. Install: {engine.python} -P -m pip install {WANTED}"


def test_a_dry_run_says_it_too(make: Callable[..., Environment], folder: Path) -> None:
    engine = make()
    message = assert_refused(engine.nimad(folder, "migrate", "--source", "graph.sqlite", "--dry-run"))
    assert message.startswith("LadybugDB not available. Install: ")


@pytest.mark.long
def test_the_namesake_alone(make: Callable[..., Environment], folder: Path) -> None:
    engine = make(NAMESAKE)
    message = assert_refused(engine.nimad(folder, "migrate", "--source", "graph.sqlite"))
    assert_names(message, engine, "LadybugDB not available", "ladybug-core 0.44.62")


@pytest.mark.long
def test_the_namesake_over_the_engine_and_the_command_that_mends_it(
    make: Callable[..., Environment], folder: Path
) -> None:
    engine = make(RIGHT)
    engine.install(NAMESAKE)
    message = assert_refused(engine.nimad(folder, "migrate", "--source", "graph.sqlite"))
    assert_names(message, engine, "LadybugDB not available", "ladybug-core 0.44.62")
    engine.shell(message.partition("Install: ")[2])
    refreshed = engine.nimad(folder, "migrate", "--source", "graph.sqlite", "--nodes-only")
    assert (refreshed.code, refreshed.err) == (0, "")


@pytest.mark.long
def test_a_release_outside_the_range(make: Callable[..., Environment], folder: Path) -> None:
    engine = make(OLD)
    message = assert_refused(engine.nimad(folder, "migrate", "--source", "graph.sqlite", "--engine", "real_ladybug"))
    for word in ("LadybugDB 0.14.1", "outside the range", f"{engine.python} -P -m pip", "'real-ladybug==0.15.3'"):
        assert word in message


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os; os.abort()", ["SIGABRT"]),
        ("raise ImportError('libstdc++.so.6: version GLIBCXX_3.4.32 not found')", ["GLIBCXX_3.4.32 not found"]),
        ("import sys; sys.exit('no licence')", []),
        ("", ["another package"]),
    ],
    ids=["crashes", "lacks a library", "exits", "is empty"],
)
def test_an_engine_that_cannot_be_imported(
    make: Callable[..., Environment], folder: Path, source: str, words: list[str]
) -> None:
    engine = make()
    (engine.packages / "ladybug").mkdir()
    (engine.packages / "ladybug/__init__.py").write_text(source)
    began = time.monotonic()
    message = assert_refused(engine.nimad(folder, "migrate", "--source", "graph.sqlite"))
    assert_names(message, engine, *words)
    # No waiting for what no repetition mends.
    assert time.monotonic() - began < 10


# The supervisor

_MEASURED = """
import json, runpy, sys
from pathlib import Path
sys.argv[0] = "nimad"
try:
    runpy.run_module("nimad", run_name="__main__")
except SystemExit as end:
    code = end.code
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"code": code, "modules": sorted(sys.modules), "peak_kb": int(status["VmHWM"].split()[0])}))
"""
_CALLED = """
import json, sys
import nimad
result = nimad.migrate(nimad.Settings(source=sys.argv[1]))
print(json.dumps({"code": result.exit_code, "modules": sorted(sys.modules)}))
"""


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["command", "call"])
def test_the_supervisor_never_loads_the_engine_and_stays_small(
    tmp_path: Path, how: str, record_property: Callable[[str, object], None]
) -> None:
    source = tmp_path / "graph.sqlite"
    write_sample(source, Sample(nodes=1_000 if how == "command" else 20, dimension=384))
    arguments = [_CALLED, str(source)] if how == "call" else [_MEASURED, "migrate", "--source", str(source)]
    done = subprocess.run(
        [sys.executable, "-c", *arguments], env=environment(tmp_path), capture_output=True, timeout=60, check=True
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["code"] == 0
    loaded = {name.partition(".")[0] for name in facts["modules"]}
    assert not loaded & {"ladybug", "pyarrow", "numpy", "pandas", "polars"}
    if how == "command":
        # VmHWM, because a process that was forked from a large one inherits that one's ru_maxrss.
        record_property("peak_rss_kb", facts["peak_kb"])
        print(f"\npeak RSS of the supervisor: {facts['peak_kb'] / 1000:.1f} MB")
        assert facts["peak_kb"] < PEAK_KB


# The children

SECRETS = {
    "NOTIFY_SOCKET": "/run/systemd/notify",
    "WATCHDOG_USEC": "30000000",
    "WATCHDOG_PID": "1",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "1",
    "CREDENTIALS_DIRECTORY": "/run/credentials/nimad.service",
    "OPENAI_API_KEY": "sk-not-for-children",
    "GITHUB_TOKEN": "ghp-not-for-children",
    "AWS_SECRET_ACCESS_KEY": "aws-not-for-children",
    "NIMA_PASSWORD": "not-for-children",
    "DATABASE_URL": "postgres://me:not-for-children@localhost",
}


@pytest.fixture
def live(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A supervisor that was stopped in its tracks, and a worker of its that is ready and waits."""
    options = ("--batch-size", "5", "--fixed-batch")
    with running(folder, "migrate", "--source", "graph.sqlite", *options, **SECRETS) as process:
        assert process.stdout
        process.stdout.readline()
        deadline = time.monotonic() + 20
        while not (ready := [pid for pid in children(process.pid) if is_settled(pid)]):
            assert time.monotonic() < deadline, "no worker came"
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        ready = [pid for pid in children(process.pid) if is_settled(pid)]
        assert ready
        yield process, ready[-1]


def is_settled(pid: int) -> bool:
    """Whether a child has become a worker: executed, and past what it does first."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"nimad.worker" in words and oom_score(pid) != oom_score(os.getpid())
    except OSError:
        return False


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_worker_inherits_no_secret_and_nothing_of_systemd(live: tuple[subprocess.Popen[bytes], int]) -> None:
    process, worker = live
    given = {entry.partition("=")[0] for entry in read_environ(process.pid)}
    assert given >= set(SECRETS), "the supervisor itself has them"
    inherited = read_environ(worker)
    names = {entry.partition("=")[0] for entry in inherited}
    assert {"HOME", "PATH"} <= names
    assert not names & set(SECRETS)
    assert not [name for name in names if re.search("TOKEN|KEY|SECRET|PASSW|CREDENTIAL|SOCKET|WATCHDOG", name)]
    assert not [entry for entry in inherited if "not-for-children" in entry]


def read_environ(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def test_a_worker_leads_a_session_of_its_own_and_goes_first(live: tuple[subprocess.Popen[bytes], int]) -> None:
    process, worker = live
    assert os.getsid(worker) == os.getpgid(worker) == worker
    assert oom_score(worker) >= oom_score(process.pid) + 500


def test_a_worker_holds_no_file_of_the_supervisor(live: tuple[subprocess.Popen[bytes], int], folder: Path) -> None:
    _, worker = live
    held: set[str] = set()
    for link in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            held.add(str(link.readlink()))
    assert held, "the worker was still there"
    ours = [str(folder / name) for name in ("migration.log", "graph.ladybug.lock", "graph.ladybug.state.json")]
    assert not held & set(ours)


def test_workers_die_with_the_supervisor(live: tuple[subprocess.Popen[bytes], int], folder: Path) -> None:
    process, _ = live
    workers = children(process.pid)
    assert workers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.01)
    # Whatever they left, the next run gets through.
    assert nimad(folder, "migrate", "--source", "graph.sqlite", "--nodes-only", "--verify", "none").code == 0


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
