"""A folder as a power cut may leave it: copied at any instant of a run, file by file, while the run writes on.

Such a copy is torn: parts of it are older than others, and of some the end of the file written last is missing or is
zeros. From each, a new run ends complete and verified. `NIMAD_POWER_CUTS=1000 make faults` takes as many copies; with
`NIMAD_FIGURES=path` the figures are written there as JSON.
"""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.memories import assert_same
from support.torture import LISTEN_S, Life, beside, left_behind, small_memory, state_of, target_of
from test_kills import heard, reached, rows_of, write_figures

from nimad.errors import ExitCode

#: Of a default run, and of a long one.
SHORT_CUTS = 3
LONG_CUTS = int(os.environ.get("NIMAD_POWER_CUTS", "100"))
#: Copies of one run.
CUTS_OF_A_RUN = 5
#: Options of the runs that are copied, in turn.
OPTIONS = (("--fixed-batch", "50"), ("--batch-size", "100"), ("--fixed-batch", "150"), ("--batch-size", "400"))
#: What happens to the file that was written last.
TEARS = ("whole", "cut", "zeros")
#: Bytes of a file that are copied at a time, and seconds, at most, in between: so that the copy is of no one moment.
PIECE = 512 * 1024
PIECE_S = 0.01
#: Seconds, at most, from the event that a copy waits for.
LONGEST_WAIT_S = 0.5
#: New runs at once.
AT_ONCE = 3


@dataclass(frozen=True)
class Cut:
    """One copy: the memory in it, and what is to be known of how it was made."""

    source: Path
    phase: str
    tear: str

    def __str__(self) -> str:
        return f"{self.source.parent} ({self.phase}, {self.tear})"


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_memory(tmp_path_factory.mktemp("memory") / "graph.sqlite", nodes=500)


def cuts_of(folder: Path, memory: Path, options: Sequence[str], wanted: int, numbers: random.Random) -> list[Cut]:
    """Copy the folder of a run at so many instants, spread over the whole of it."""
    folder.mkdir()
    source = Path(shutil.copy(memory, folder / "graph.sqlite"))
    shares = sorted(numbers.random() for _ in range(wanted))
    cuts = []
    with Life(source, *options, "--json") as life:
        for number, share in enumerate(shares):
            while not life.over and not reached(heard(life), share):
                time.sleep(LISTEN_S)
            time.sleep(numbers.uniform(0, LONGEST_WAIT_S))
            cuts.append(cut_power(source, folder.with_name(f"{folder.name}-cut-{number}"), numbers))
        assert life.wait() == ExitCode.COMPLETE, life.said
    return cuts


def cut_power(source: Path, to: Path, numbers: random.Random) -> Cut:
    to.mkdir()
    phase = str(state_of(target_of(source)).get("phase", "analysing"))
    names = [path.name for path in source.parent.iterdir() if path.is_file() and not path.name.startswith("output-")]
    numbers.shuffle(names)
    for name in names:
        with suppress(FileNotFoundError):  # it was renamed or removed a moment ago
            copy_slowly(source.with_name(name), to / name, numbers)
    return Cut(adopt(source, to), phase, tear(to, source.name, numbers))


def copy_slowly(path: Path, to: Path, numbers: random.Random) -> None:
    if path.is_symlink():
        to.symlink_to(path.readlink())
        return
    with path.open("rb") as file, to.open("wb") as copy:
        while piece := file.read(PIECE):
            copy.write(piece)
            time.sleep(numbers.uniform(0, PIECE_S))
    status = path.stat()
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))


def adopt(source: Path, to: Path) -> Path:
    """Have the copy's state name the copy's own memory, as if it had always been there."""
    copy = to / source.name
    state = beside(target_of(copy), ".state.json")
    if state.exists():
        text = state.read_text().replace(str(source.parent), str(to))
        state.write_text(text.replace(f'"inode": {source.stat().st_ino}', f'"inode": {copy.stat().st_ino}'))
    return copy


def tear(folder: Path, source: str, numbers: random.Random) -> str:
    """Spoil the end of the file that was written last, in two of three copies."""
    files = [path for path in folder.iterdir() if path.name != source and "state" not in path.name]
    files = [path for path in files if path.name != target_of(folder / source).name and path.stat().st_size]
    how = numbers.choice(TEARS)
    if how == "whole" or not files:
        return "whole"
    last = max(files, key=lambda path: path.stat().st_mtime_ns)
    size = last.stat().st_size
    lost = numbers.randint(1, min(size, 64 * 1024))
    os.truncate(last, size - lost)
    if how == "zeros":
        os.truncate(last, size)
    return f"{how}: the last {lost} of {size} bytes of {last.name}"


@dataclass(frozen=True)
class Ended:
    """How the new run from a copy went."""

    said: str
    status: int | None  # None: what it left is not as it should be, or it did not end
    rows: int
    aside: int
    resumed: bool


def go_on(cut: Cut) -> Ended:
    try:
        return end_of_a_new_run(cut)
    except AssertionError as error:  # the others are to have their turn all the same
        return Ended(str(error), None, 0, 0, resumed=False)


def end_of_a_new_run(cut: Cut) -> Ended:
    target = target_of(cut.source)
    with Life(cut.source, "--json") as life:
        status = life.wait()
        events = heard(life)
    rows = 0
    if status == ExitCode.COMPLETE:
        assert any(event["event"] in ("Verified", "NothingToDo") for event in events), life.said
        rows = rows_of(assert_same(cut.source, target))
        kept = [name for event in events if event["event"] == "SetAside" for name in event["files"]]
        left = [name for name in left_behind(target) if not any(Path(path).name == name for path in kept)]
        assert left == [], f"left beside {target}: {left}"
    aside = sum(event["event"] == "SetAside" for event in events)
    resumed = any(event["event"] == "Started" and event["found"].get("MemoryNode") for event in events)
    return Ended(life.said, status, rows, aside, resumed=resumed)


def cut_and_go_on(folder: Path, memory: Path, wanted: int) -> None:
    seed = random.SystemRandom().randrange(10**9)
    numbers, began = random.Random(seed), time.monotonic()
    cuts: list[Cut] = []
    while len(cuts) < wanted:
        options = OPTIONS[len(cuts) // CUTS_OF_A_RUN % len(OPTIONS)]
        part = min(CUTS_OF_A_RUN, wanted - len(cuts))
        cuts += cuts_of(folder / f"run-{len(cuts)}", memory, options, part, numbers)
    with ThreadPoolExecutor(AT_ONCE) as executor:
        ends = list(executor.map(go_on, cuts))
    failed = [f"{cut}: exit {end.status}\n{end.said}" for cut, end in zip(cuts, ends, strict=True) if end.status != 0]
    facts = {
        "seed": seed,
        "cuts": len(cuts),
        "phases": Counter(cut.phase for cut in cuts),
        "tears": Counter(cut.tear.split(":")[0] for cut in cuts),
        "went_on_with_what_was_there": sum(end.resumed for end in ends),
        "set_something_aside": sum(end.aside > 0 for end in ends),
        "completed": len(cuts) - len(failed),
        "rows_compared": sum(end.rows for end in ends),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_figures("power_cuts", facts)
    assert not failed, f"seed {seed}: {len(failed)} of {len(cuts)} did not complete\n" + "\n".join(failed)


def test_from_torn_copies_of_one_run_new_ones_end_complete(tmp_path: Path, memory: Path) -> None:
    cut_and_go_on(tmp_path, memory, SHORT_CUTS)


@pytest.mark.long
def test_from_any_number_of_torn_copies_a_new_run_ends_complete(tmp_path: Path, memory: Path) -> None:
    cut_and_go_on(tmp_path, memory, LONG_CUTS)
