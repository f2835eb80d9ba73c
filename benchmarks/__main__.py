"""Everything that `docs/PERFORMANCE.md` says, measured in one run: nimad, the floor, and three other ways to migrate.

    python benchmarks [--quick] [--rounds N] [--write] [--folder FOLDER]

The contestants run in turn, round after round, each as a program of its own from start to exit; a first round, which
warms the caches, does not count. Prints a table with a mark for each figure, and writes all that was measured to
`build/bench.json`. With `--write` the table and the pictures go into `docs/`. With `--quick` it takes some 90 seconds
and ends with status 1 when a figure is missed that does not depend on what else the machine does.
"""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import picture
from figures import Figure, Measured, Spread, figures
from following import follow
from measure import python, run

from nimad.sample import Sample, write_sample

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
#: Nodes of a real memory, and of those between which growth is measured.
REAL, SMALL, LARGE = 9_770, 10_000, 100_000
QUICK_REAL, QUICK_SMALL, QUICK_LARGE = 4_000, 1_000, 10_000
#: What growth is drawn at, and up to where for contestants that get slower and slower.
DRAWN = (1_000, 2_000, 5_000, 20_000, 50_000)
DRAWN_SLOW = 2_000
FIXED_LARGE = 50_000
#: Runs whose memory is looked at.
PEAKS = 3
CONTESTANTS = {"floor": "floor.py", "upstream 2.x": "upstream2.py", "upstream 3.1": "upstream3.py", "naive": "naive.py"}
FIXED = "nimad, fixed 500"
_MARKS = ("<!-- made by make bench: begin -->", "<!-- made by make bench: end -->")


class Bench:
    """One benchmark in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = Measured()

    def memory(self, nodes: int) -> Path:
        """A sample memory of so many nodes, made when it is first wanted."""
        path = self.folder / f"{nodes}.sqlite"
        if not path.exists():
            write_sample(path, Sample(nodes=nodes))
            self.found.sqlite_bytes[nodes] = path.stat().st_size
        return path

    def contest(self, nodes: int, names: list[str], rounds: int, *, warm: bool = True) -> None:
        """Each in turn, round after round; where nothing is warm yet, one more round before that does not count."""
        for number in range(rounds + warm):
            for name in names:
                self._run(name, nodes, counts=not (warm and number == 0))

    def _run(self, name: str, nodes: int, *, counts: bool) -> None:
        target = self.target(name, nodes)
        for piece in self.folder.glob(f"{target.name}*"):
            piece.unlink()
        done = run(self._command(name, self.memory(nodes), target))
        if counts:
            self.found.runs.setdefault((name, nodes), []).append(done)
            self.found.file_bytes[name, nodes] = target.stat().st_size
            said = f"{done.wall_s:7.2f} s  {done.cpu_s:7.2f} s of processor  {done.written_bytes / 1e6:7.1f} MB written"
            print(f"{name:<18} {nodes:>7,} nodes  {said}", flush=True)
        if name.startswith("nimad"):
            state = json.loads(target.with_name(f"{target.name}.state.json").read_text(encoding="utf-8"))
            self.found.batches[name, nodes] = state["plan"]["total_batches"]

    def target(self, name: str, nodes: int) -> Path:
        return self.folder / f"{name.replace(' ', '-')}-{nodes}.lbug"

    def _command(self, name: str, source: Path, target: Path) -> list[str]:
        if name in CONTESTANTS:
            return python(HERE / CONTESTANTS[name], source, target)
        fixed = ("--fixed-batch", "500") if name == FIXED else ()
        return python("-m", "nimad", "migrate", "--source", source, "--target", target, *fixed)

    def peak(self, nodes: int) -> None:
        """The memory of runs, looked at in some that are not timed; their short peaks are met more or less well."""
        target = self.folder / "peak.lbug"
        for _ in range(PEAKS):
            looked = run(self._command("nimad", self.memory(nodes), target), look_at_memory=True)
            self.found.peak_bytes.setdefault(nodes, []).append(looked.peak_bytes)
            for piece in self.folder.glob(f"{target.name}*"):
                piece.unlink()

    def search(self, nodes: int) -> None:
        out = self.folder / "search.json"
        run(python(HERE / "searching.py", self.memory(nodes), self.target("nimad", nodes)), log=out)
        self.found.search_ms = json.loads(out.read_text(encoding="utf-8"))

    def service(self, nodes: int, turns: int, idle_s: float) -> None:
        """Late arrivals, and idling; last of all, because it writes to the memory and to the target."""
        done = follow(self.memory(nodes), self.target("nimad", nodes), turns, idle_s)
        self.found.late_s, self.found.idle_rss_bytes = done.late_s, done.idle_rss_bytes
        self.found.idle_cpu_share = done.idle_cpu_share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="90 seconds, and only the figures that noise leaves alone")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the real memory's size")
    parser.add_argument("--write", action="store_true", help="write docs/PERFORMANCE.md and its pictures")
    parser.add_argument("--folder", type=Path, help="where the files lie; on the disk whose writes are to be counted")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(Path(folder))
        print(machine())
        lines = quick(bench) if arguments.quick else whole(bench, arguments.rounds)
    out = HERE.parent / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), **bench.found.to_json()}, indent=1) + "\n", encoding="utf-8")
    table = as_table(lines, bench.found)
    print(f"\n{table}")
    if arguments.write:
        write_docs(table, bench.found)
    missed = [line.what for line in lines if line.stable and not line.reached]
    for what in missed:
        print(f"missed, whatever else the machine did: {what}")
    return 1 if missed and arguments.quick else 0


def quick(bench: Bench) -> list[Figure]:
    bench.contest(QUICK_REAL, ["floor", "nimad"], 2)
    bench.contest(QUICK_REAL, ["upstream 2.x", "naive"], 1, warm=False)
    for nodes in (QUICK_SMALL, QUICK_LARGE):
        bench.contest(nodes, ["nimad"], 1, warm=False)
    bench.peak(QUICK_REAL)
    bench.service(QUICK_REAL, 2, 5.0)
    return figures(bench.found, QUICK_REAL, QUICK_SMALL, QUICK_LARGE)


def whole(bench: Bench, rounds: int) -> list[Figure]:
    bench.contest(REAL, ["floor", "nimad"], rounds)
    bench.contest(REAL, ["upstream 2.x", "naive"], 2, warm=False)
    bench.contest(REAL, ["upstream 3.1"], 1, warm=False)
    bench.contest(SMALL, ["floor", "nimad"], rounds, warm=False)
    bench.contest(SMALL, [FIXED], 1, warm=False)
    for nodes in DRAWN:
        slow = [*CONTESTANTS][1:] if nodes <= DRAWN_SLOW else []
        bench.contest(nodes, ["floor", "nimad", *slow], 1, warm=False)
    bench.contest(LARGE, ["floor", "nimad"], 1, warm=False)
    bench.contest(FIXED_LARGE, [FIXED], 1, warm=False)
    bench.peak(REAL)
    bench.search(REAL)
    bench.service(REAL, 5, 20.0)
    return figures(bench.found, REAL, SMALL, LARGE)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} processors ({model}), {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, ladybug {version('ladybug')}, "
        f"pyarrow {version('pyarrow')}, nimad {version('nimad')}; load {load:.1f} when it began"
    )


def as_table(lines: list[Figure], found: Measured) -> str:
    rows = [f"| {line.what} | {line.goal} | {line.measured} | {line.mark} |" for line in lines]
    head = ["| what | goal | measured: median (spread) | |", "| --- | --- | --- | --- |"]
    contest = [
        "| who | nodes | s | s of processor | MB written | MB of file |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (who, nodes), runs in sorted(found.runs.items(), key=lambda item: (item[0][1], item[0][0])):
        wall, cpu = Spread([run.wall_s for run in runs]), Spread([run.cpu_s for run in runs])
        written, file = Spread([run.written_bytes / 1e6 for run in runs]), found.file_bytes[who, nodes] / 1e6
        contest.append(f"| {who} | {nodes:,} | {wall:.2f} | {cpu:.2f} | {written:.0f} | {file:.1f} |")
    return "\n".join([*head, *rows, "", *contest])


def write_docs(table: str, found: Measured) -> None:
    page = DOCS / "PERFORMANCE.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    pictures = "![Seconds by nodes](growth-time.svg)\n\n![MB written by nodes](growth-written.svg)"
    made = f"{machine()}.\n\n{table}\n\n{pictures}\n"
    page.write_text(f"{before}{_MARKS[0]}\n{made}{_MARKS[1]}{after}", encoding="utf-8")
    names = [*CONTESTANTS, "nimad", FIXED]
    for file, unit, of in (("growth-time", "s", "wall_s"), ("growth-written", "MB", "written_bytes")):
        scale = 1e6 if of == "written_bytes" else 1
        drawn = {
            name: [
                (float(nodes), Spread([getattr(run, of) / scale for run in runs]).median)
                for (who, nodes), runs in found.runs.items()
                if who == name
            ]
            for name in names
        }
        lines = {name: line for name, line in drawn.items() if line}
        (DOCS / f"{file}.svg").write_text(picture.growth(lines, unit), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
