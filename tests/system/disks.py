#!/usr/bin/env python3
"""Live on a stick: a real vfat that is unmounted and mounted again, in the middle of a run and after it.

    python3 tests/system/disks.py [--nodes N] [--mem M]

As root. In a machine of its own kernel (User-Mode Linux), which has vfat whatever this one has. Exit status 0 only if
all is as it should be.
"""

from pathlib import Path

import common
import uml
from common import say

NODES, MEM_MIB = 400, 1_024
_STICK_BYTES = 128 * 1024**2
#: Modules of the machine's kernel, each after those that it needs.
_MODULES = (
    *("drivers/block/loop.ko", "fs/nls/nls_cp437.ko", "fs/nls/nls_iso8859-1.ko", "fs/nls/nls_ascii.ko"),
    *("fs/nls/nls_utf8.ko", "fs/fat/fat.ko", "fs/fat/vfat.ko"),
)
_NIMAD = "PYTHONPATH=/opt/nimad:/opt/wheels python3 -m nimad"
_MOUNT = "mount -t vfat -o loop /root/stick /mnt"
#: Two mounts of a stick, between which the kernel forgets the numbers that it gave.
_REMOUNT = f"set -e; cd /; umount /mnt; echo 3 >/proc/sys/vm/drop_caches; {_MOUNT}"
#: The machine has no insmod: finit_module(2), by its number on this processor.
_INSERT = """python3 - <<'END'
import ctypes, os
for name in "{names}".split():
    if os.path.exists(name):
        ctypes.CDLL(None).syscall(313, os.open(name, os.O_RDONLY), b"", 0)
END"""
_ADD = """python3 - <<'END'
import sqlite3
with sqlite3.connect("/mnt/graph.sqlite") as memory:
    memory.execute("INSERT INTO memory_nodes (text, timestamp) VALUES ('late', 12)")
END"""


#: The agent takes a memory out of the target; and whether it stayed so.
_ASK = """PYTHONPATH=/opt/wheels python3 - <<'END'
import ladybug
database = ladybug.Database("/mnt/ladybug.lbug", buffer_pool_size=128 << 20, max_db_size=1 << 34, max_num_threads=1)
connection = ladybug.Connection(database)
found = connection.execute("{}").get_all()
connection.close()
database.close()
assert {}, found
END"""
_TAKE_OUT = _ASK.format("MATCH (n:MemoryNode {id: 5}) DETACH DELETE n", "True")
_IS_OUT = _ASK.format("MATCH (n:MemoryNode {id: 5}) RETURN n.id", "not found")


class Stick:
    """The machine with the stick in it."""

    def __init__(self, machine: uml.Machine) -> None:
        self._machine = machine

    def run(self, script: str, *, status: int = 0) -> str:
        done = self._machine.run(script)
        if done.status != status:
            raise SystemExit(f"ended with {done.status}, not {status}: {script}\n{done.output}")
        return done.output

    def says(self, script: str, *wanted: str, status: int = 0) -> str:
        """Run it, and see that it says each of these."""
        said = self.run(script, status=status)
        for each in wanted:
            if each not in said:
                raise SystemExit(f"does not say {each!r}: {script}\n{said}")
        return said


def put_in(machine: uml.Machine, build: Path) -> Stick:
    """Make a stick with the sample on it, and mount it."""
    modules = next(Path("/usr/lib/uml/modules").iterdir()) / "kernel"
    for name in _MODULES:
        if (modules / name).exists():
            machine.share(modules / name)
    image = build / "stick"
    with image.open("wb") as file:
        file.truncate(_STICK_BYTES)
    common.run("mkfs.vfat", image)
    machine.share(image)
    image.unlink()
    stick = Stick(machine)
    names = " ".join(Path(name).name for name in _MODULES)
    stick.run(f"cd /run/host; cp stick /root/stick; {_INSERT.format(names=names)}")
    stick.run(f"set -e; {_MOUNT}; cp /srv/graph.sqlite /mnt/")
    return stick


def finished(stick: Stick) -> None:
    """A finished target is known again after each mount, and followed on."""
    unnamed = "The name /mnt/graph.ladybug cannot be made"
    stick.says(f"{_NIMAD} migrate --source /mnt/graph.sqlite", "Migration completed successfully", unnamed)
    stick.run("test -f /mnt/ladybug.lbug && test ! -e /mnt/graph.ladybug")
    for _ in range(2):
        stick.run(_REMOUNT)
        if unnamed in stick.says(f"{_NIMAD} migrate --source /mnt/graph.sqlite", "is complete"):
            raise SystemExit("what has no links is said again")
    stick.run(f"{_REMOUNT}; {_ADD}")
    stick.says(f"{_NIMAD} migrate --source /mnt/graph.sqlite", "Caught up: 1 memory added")
    stick.run(_REMOUNT)
    stick.run(f"{_NIMAD} verify --source /mnt/graph.sqlite --target /mnt/ladybug.lbug")
    stick.says(f"{_NIMAD} status --source /mnt/graph.sqlite", "Complete")
    stick.run(_TAKE_OUT)
    for _ in range(2):  # the first of them notes that
        stick.run(f"{_NIMAD} migrate --source /mnt/graph.sqlite; {_REMOUNT}")
    stick.run(_IS_OUT)
    said = " ".join(stick.run(f"{_NIMAD} doctor --source /mnt/graph.sqlite; true").split())
    for each in ("vfat", "no owners", "no links", "no file of more than 4,294 MB"):
        if each not in said:
            raise SystemExit(f"the doctor does not say {each!r}:\n{said}")


def interrupted(stick: Stick) -> None:
    """What an interrupted run has counted is there after the next mount."""
    stick.run("rm -f /mnt/ladybug.lbug*; true")
    once = f"{_NIMAD} migrate --source /mnt/graph.sqlite --fixed-batch 50"
    stick.run(
        f"{once} >/root/first 2>&1 & pid=$!; while ! grep -q 'Batch 2/' /root/first; do sleep 0.1; done; kill $pid; "
        "wait $pid",
        status=75,
    )
    stick.run(_REMOUNT)
    said = stick.says(once, "Going on with", "Migration completed successfully")
    say(next(line for line in said.splitlines() if "Going on with" in line))


def main() -> None:
    options = common.parse(common.arguments(__doc__))
    common.need("dosfstools")
    disk = uml.image(options.build, options.source, options.nodes or NODES)
    with uml.Machine(disk, options.mem or MEM_MIB) as machine:
        machine.place(options.source)
        stick = put_in(machine, options.build)
        for part in (finished, interrupted):
            say(f"{part.__name__}: {(part.__doc__ or '').splitlines()[0]}")
            part(stick)
    say("All is as it should be.")


if __name__ == "__main__":
    main()
