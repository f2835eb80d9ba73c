"""The floor: one process that bare-COPYs the same tables, with no safety, no checks and no verification.

`python benchmarks/floor.py SOURCE TARGET`
"""

import sys
from pathlib import Path

from copying import copy_nodes, copy_the_rest
from tables import Memory, Target


def main(source: Path, path: Path) -> None:
    memory = Memory(source)
    target = Target(path, memory)
    target.create(memory)
    copy_nodes(memory, target, memory.nodes())
    copy_the_rest(memory, target)
    target.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
