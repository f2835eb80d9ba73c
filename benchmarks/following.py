"""The service: how long one more turn takes to arrive in the target, and what waiting for it costs."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import FailedError, python

#: Seconds for the service to start and to catch up for the first time, and between two looks at what it did.
_READY_S, _LOOK_S = 120.0, 0.005


@dataclass(frozen=True)
class Service:
    """`late_s`: of each turn that came late, from its commit until the target was found to have it."""

    late_s: list[float]
    idle_rss_bytes: int
    idle_cpu_share: float  # of one processor


def follow(source: Path, target: Path, turns: int, idle_s: float) -> Service:
    """Have `nimad run` follow a target that is there, write turns to SQLite one by one, then leave it alone."""
    state = target.with_name(f"{target.name}.state.json")
    with _service(source, target) as process:
        sqlite = sqlite3.connect(source, isolation_level=None)
        sqlite.execute("PRAGMA journal_mode = WAL")
        _add_turn(sqlite)  # the first look is a thorough one, and its end is not to be waited for blindly
        _wait(process, lambda: _has(state, _last(sqlite)))
        late = []
        for _ in range(turns):
            time.sleep(1.0)  # so that each is a burst of its own
            _add_turn(sqlite)
            began, last = time.monotonic(), _last(sqlite)
            _wait(process, lambda last=last: _has(state, last))  # type: ignore[misc]
            late.append(time.monotonic() - began)
        sqlite.close()
        time.sleep(2.0)
        before = _cpu_s(process.pid)
        time.sleep(idle_s)
        share = (_cpu_s(process.pid) - before) / idle_s
        return Service(late, _rss(process.pid), share)


@contextmanager
def _service(source: Path, target: Path) -> Iterator["subprocess.Popen[bytes]"]:
    words = ("run", "--source", source, "--target", target, "--trigger", "start", "--after", "follow")
    log = target.with_name("service.log")
    with log.open("wb") as out, subprocess.Popen(python("-m", "nimad", *words), stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_READY_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: "subprocess.Popen[bytes]", what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while not what():
        if process.poll() is not None or time.monotonic() > deadline:
            raise FailedError("nimad run did not bring a turn to its target")
        time.sleep(_LOOK_S)


def _add_turn(sqlite: sqlite3.Connection) -> None:
    """One turn as an agent writes it: three nodes, two edges and the turn, in one transaction."""
    sqlite.execute("BEGIN")
    turn, now = f"late-{time.monotonic_ns()}", time.time_ns() // 10**6
    ids = []
    for layer in ("input", "contemplation", "output"):
        values = (now, layer, f"What came late, of the {layer} layer. " * 50, "late", "Maya", turn)
        ids.append(sqlite.execute(_NODE, values).lastrowid)
    for one, other in ((0, 1), (1, 2)):
        sqlite.execute(_EDGE, (ids[one], ids[other], "triggered", 1.0))
    sqlite.execute(_TURN, (turn, *ids, now))
    sqlite.execute("COMMIT")


_NODE = "INSERT INTO memory_nodes(timestamp, layer, text, summary, who, turn_id) VALUES (?, ?, ?, ?, ?, ?)"
_EDGE = "INSERT INTO memory_edges(source_id, target_id, relation, weight) VALUES (?, ?, ?, ?)"
_TURN = (
    "INSERT INTO memory_turns(turn_id, input_node_id, contemplation_node_id, output_node_id, timestamp) "
    "VALUES (?, ?, ?, ?, ?)"
)


def _last(sqlite: sqlite3.Connection) -> int:
    return int(sqlite.execute("SELECT max(id) FROM memory_nodes").fetchone()[0])


def _has(state: Path, last: int) -> bool:
    """Whether the state file says that a node is there: it does once another process has found it in the target."""
    try:
        data: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return int(data.get("bounds", {}).get("memory_nodes", -1)) >= last


def _cpu_s(pid: int) -> float:
    """Seconds of processor of a process and its threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
