"""The naive way to do what the guide describes: a fresh process for each 500 nodes, with a checkpoint.

`python benchmarks/naive.py SOURCE TARGET`; each of its processes is called with the highest id so far as well.
"""

import subprocess
import sys
from pathlib import Path

from copying import copy_nodes, copy_the_rest
from tables import Memory, Target

BATCH = 500


def main(source: Path, path: Path) -> None:
    memory, after = Memory(source), -1
    while (ids := memory.sqlite.execute(_IDS, (after, BATCH)).fetchall()) or after == -1:
        subprocess.run([sys.executable, __file__, source, path, str(after)], check=True)
        after = ids[-1][0]
    subprocess.run([sys.executable, __file__, source, path, _THE_REST], check=True)


_IDS = "SELECT id FROM memory_nodes WHERE id > ? ORDER BY id LIMIT ?"
_THE_REST = "rest"


def one(source: Path, path: Path, what: str) -> None:
    """One process: the nodes after an id, or everything else."""
    memory, is_new = Memory(source), not path.exists()
    target = Target(path, memory)
    if is_new:
        target.create(memory)
    if what == _THE_REST:
        copy_the_rest(memory, target)
    else:
        copy_nodes(memory, target, memory.nodes(int(what), BATCH))
    target.run("CHECKPOINT")
    target.close()


if __name__ == "__main__":
    if len(sys.argv) == 3:  # noqa: PLR2004 - source and target
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        one(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
