"""`nimad migrate` against the floor, in one run, one after the other and in turn.

    python benchmarks/compare.py [--nodes 9770] [--rounds 3] [--limit 3.0]

Prints both medians with their spread and the median of the ratios, round by round, and ends with status 1 when
that is above --limit. Both are timed as whole processes, from start to exit.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nimad.sample import Sample, write_sample

FLOOR = Path(__file__).with_name("floor.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=9_770)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3.0, help="highest ratio that passes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _compare(Path(folder), arguments.nodes, arguments.rounds, arguments.limit)


def _compare(folder: Path, nodes: int, rounds: int, limit: float) -> int:
    source = folder / "graph.sqlite"
    counts = write_sample(source, Sample(nodes=nodes))
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(f"{counts.nodes} nodes, {counts.edges} edges, {counts.turns} turns, {counts.bytes / 1e6:.1f} MB of SQLite")
    floor_s, nimad_s = [], []
    for number in range(rounds + 1):
        one = _time([sys.executable, str(FLOOR), str(source), str(folder / f"floor{number}")])
        target = str(folder / f"nimad{number}")
        other = _time([sys.executable, "-m", "nimad", "migrate", "--source", str(source), "--target", target])
        if number:  # the first round warms the caches
            floor_s.append(one)
            nimad_s.append(other)
    _print("floor: bare COPY", floor_s, folder / "floor0")
    _print("nimad migrate", nimad_s, folder / "nimad0")
    ratios = [other / one for one, other in zip(floor_s, nimad_s, strict=True)]
    ratio = statistics.median(ratios)
    print(f"ratio: median {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), limit {limit:.2f}")
    return 0 if ratio <= limit else 1


def _time(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _print(name: str, seconds: list[float], file: Path) -> None:
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    size = file.stat().st_size / 1e6
    print(f"{name:<18} median {statistics.median(seconds):6.2f} s ({spread}), file {size:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
