"""Mutated files: whatever bytes a memory, a target or a file of ours holds, a command ends in time and in words.

`make faults` does 2,000 memories, 500 targets and 500 states; `NIMAD_FUZZ=100` a twentieth of each. A failure names the
seed of its file; `NIMAD_FUZZ_SEED` is that of the first.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.commands import command, environment
from support.memories import edge, make_memory, migrate, node, turn, vector
from test_kills import write_figures

from nimad.errors import ExitCode

LONG = int(os.environ.get("NIMAD_FUZZ", "2000"))
SHORT = 8
#: Seconds of a processor and bytes of memory that a command may take for a file of some 100 kB; and after how many
#: seconds it counts as hanging, however much else the machine does.
LIMIT_S, LIMIT_BYTES, HANGS_S = 60.0, 512 * 1024**2, 1_200.0
NODES = 40
#: What happens to bytes, by how often. What comes after an insertion is read shifted.
ACCIDENTS = {"flip": 10, "random": 8, "zeros": 4, "ones": 2, "move": 4, "cut": 1, "insert": 1, "remove": 1}
#: Statuses with a meaning: those of all commands, and of `nimad status` alone.
STATUSES = {*ExitCode, 3, 4} - {ExitCode.INTERNAL}
#: Starts a command, and tells its status, the seconds of a processor and by the clock that it took, and the most memory
#: that it or a process of its had. A process begins with what the one had that starts it, which has to be a small one.
_LAUNCH = """\
import json, resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True)
taken = resource.getrusage(resource.RUSAGE_CHILDREN)
said = (done.stdout + done.stderr).decode(errors="replace")
times = taken.ru_utime + taken.ru_stime, time.monotonic() - began
print(json.dumps([done.returncode, *times, taken.ru_maxrss * 1024, said]))
"""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same bytes after one to four accidents, of which the beginning has its share."""
    bytes_ = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        size = len(bytes_)
        if size < 2:
            break
        at = chance.randrange(min(size, 200)) if chance.random() < 0.4 else chance.randrange(size)
        length = min(chance.choice((1, 1, 2, 4, 8, 64, 4_096)), size - at)
        (kind,) = chance.choices([*ACCIDENTS], [*ACCIDENTS.values()])
        if kind == "flip":
            bytes_[at] ^= 1 << chance.randrange(8)
        elif kind == "random":
            bytes_[at : at + length] = chance.randbytes(length)
        elif kind in ("zeros", "ones"):
            bytes_[at : at + length] = (b"\0" if kind == "zeros" else b"\xff") * length
        elif kind == "cut":
            del bytes_[at:]
        elif kind == "move":
            other = chance.randrange(size - length + 1)
            bytes_[at : at + length] = bytes_[other : other + length]
        elif kind == "insert":
            bytes_[at:at] = chance.randbytes(length)
        elif kind == "remove":
            del bytes_[at : at + length]
    return bytes(bytes_)


@dataclass(frozen=True)
class Ended:
    """How a command ended over one file."""

    seed: int
    status: int
    seconds: float
    elapsed: float
    peak: int  # bytes
    said: str

    @property
    def wrong(self) -> str:
        """What must not be; empty where it ended as it may."""
        if self.status not in STATUSES:
            return f"it ended with {self.status}"
        if "Traceback" in self.said:
            return "a traceback"
        if self.seconds > LIMIT_S:
            return f"{self.seconds:.0f} s"
        return f"{self.peak:,} bytes" if self.peak > LIMIT_BYTES else ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a memory of each kind of page, its target and what stands beside that."""
    source = make_memory(
        tmp_path_factory.mktemp("made") / "graph.sqlite",
        nodes=[
            node(key, text=f"memory {key} " * (1 if key % 9 else 900), embedding=vector(key, 1, 2), turn_id=f"t{key}")
            for key in range(1, NODES + 1)
        ],
        edges=[edge(key, key, key + 1) for key in range(1, NODES, 2)],
        turns=[turn(key, key, None, key + 1) for key in range(1, NODES, 2)],
    )
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE INDEX by_turn ON memory_nodes(turn_id)")
    migrate(source, reader_python=Path("none"))
    return source.parent


def fuzzed(
    made: Path, folder: Path, names: Sequence[str], count: int, words: Callable[[Path], Sequence[str | Path]]
) -> list[Ended]:
    """Mutate one of these files so many times, each in a copy of the folder, and run a command over it."""
    first = int(os.environ.get("NIMAD_FUZZ_SEED", random.randrange(2**32)))

    def one(seed: int) -> Ended:
        chance = random.Random(seed)
        here = folder / f"{seed}"
        shutil.copytree(made, here, symlinks=True)
        file = here / chance.choice(names)
        file.write_bytes(mutated(file.read_bytes(), chance))
        done = subprocess.run(
            [sys.executable, "-c", _LAUNCH, *map(str, command(*words(here)))],
            cwd=here,
            env=environment(here),
            capture_output=True,
            check=True,
            timeout=HANGS_S,
        )
        ended = Ended(seed, *json.loads(done.stdout))
        if not ended.wrong:
            shutil.rmtree(here)
        return ended

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, range(first, first + count)))


def assert_well(name: str, found: Sequence[Ended]) -> None:
    wrong = [f"seed {ended.seed}: {ended.wrong}\n{ended.said}" for ended in found if ended.wrong]
    write_figures(
        f"fuzz-{name}",
        {
            "files": len(found),
            "statuses": {str(status): number for status, number in sorted(Counter(e.status for e in found).items())},
            "slowest, s of a processor": round(max(ended.seconds for ended in found), 2),
            "slowest, s by the clock": round(max(ended.elapsed for ended in found), 2),
            "most memory, bytes": max(ended.peak for ended in found),
            "wrong": len(wrong),
        },
    )
    assert not wrong, "\n\n".join(wrong)
    assert {ended.status for ended in found} != {ExitCode.USAGE}, "the command itself is wrong"


def memories(made: Path, folder: Path, count: int) -> None:
    def words(here: Path) -> list[str | Path]:
        return ["migrate", "--dry-run", "--source", here / "graph.sqlite", "--reader-python", "none", "--target", "new"]

    assert_well("memories", fuzzed(made, folder, ["graph.sqlite"], count, words))


def targets(made: Path, folder: Path, count: int) -> None:
    assert_well(
        "targets",
        fuzzed(made, folder, ["graph.ladybug"], count, lambda here: ["health", "--db", here / "graph.ladybug"]),
    )


def states(made: Path, folder: Path, count: int) -> None:
    names = ["graph.ladybug.state.json", "graph.ladybug.runs.jsonl"]
    assert_well(
        "states", fuzzed(made, folder, names, count, lambda here: ["status", "--source", here / "graph.sqlite"])
    )


def test_a_mutated_memory_ends_in_words(made: Path, tmp_path: Path) -> None:
    memories(made, tmp_path, SHORT)


def test_a_mutated_target_ends_in_words(made: Path, tmp_path: Path) -> None:
    targets(made, tmp_path, SHORT // 4)


def test_a_mutated_state_ends_in_words(made: Path, tmp_path: Path) -> None:
    states(made, tmp_path, SHORT // 4)


@pytest.mark.long
def test_two_thousand_mutated_memories_end_in_words(made: Path, tmp_path: Path) -> None:
    memories(made, tmp_path, LONG)


@pytest.mark.long
def test_five_hundred_mutated_targets_end_in_words(made: Path, tmp_path: Path) -> None:
    targets(made, tmp_path, LONG // 4)


@pytest.mark.long
def test_five_hundred_mutated_states_end_in_words(made: Path, tmp_path: Path) -> None:
    states(made, tmp_path, LONG // 4)
