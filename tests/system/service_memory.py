#!/usr/bin/env python3
"""Let the kernel end a worker of the service for want of memory: the same process goes on, and completes.

    python3 tests/system/service_memory.py [--uncounted] [--nodes N] [--mem M]

As root. In a machine of its own kernel (User-Mode Linux), where MemoryMax= is carried out. The limit falls below what a
worker has while it works, and rises again once the kernel has acted. With --uncounted it is a machine as Raspberry Pi
OS makes them: the kernel accounts for no memory of services (cgroup_disable=memory), and swap is on zram. Exit status 0
only if all is as it should be.
"""

import sys
import time
from collections.abc import Callable, Mapping

import common
import uml
from common import say

NODES, MEM_MIB = 400, 1_024
#: Of MemoryMax=, in MiB: enough for a plan, too little for a worker at work, and enough for the daemon in any case.
ENOUGH, SHORT = 600, 80
#: Seconds until what is waited for has to have come; Python starts in seconds there.
PATIENCE_S, POLL_S = 240.0, 0.2

_SET_UP = f"""
set -e
useradd --create-home pi
install -d -o pi -g pi /home/pi/.nima /home/pi/.nima/memory
install -o pi -g pi /srv/graph.sqlite /home/pi/.nima/memory/graph.sqlite
export PYTHONPATH=/opt/nimad:/opt/wheels
python3 -m nimad setup --user pi
cat >/etc/systemd/system/nima-migrate.service.d/90-test.conf <<'END'
[Service]
Environment=PYTHONPATH=/opt/nimad:/opt/wheels PYTHONDONTWRITEBYTECODE=1
MemoryHigh=infinity
MemoryMax={ENOUGH}M
MemorySwapMax=0
END
mkdir -p /etc/nima
printf '[batch]\\nsize = 200\\nfixed = true\\n' >/etc/nima/nimad.toml
systemctl daemon-reload
systemctl start nima-migrate
"""
#: Modules by hand, because the machine has no kmod. 313 is finit_module(2) on this kind of processor.
_ZRAM = """
set -e
mkdir -p /run/modules
mount -t hostfs -o /usr/lib/uml/modules none /run/modules
python3 - <<'END'
import ctypes, glob, os
libc = ctypes.CDLL(None, use_errno=True)
for name in ("zsmalloc", "zram"):
    (path,) = glob.glob(f"/run/modules/*/kernel/**/{name}.ko", recursive=True)
    with open(path, "rb") as file:
        if libc.syscall(313, file.fileno(), b"", 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
END
echo 256M >/sys/block/zram0/disksize
mkswap /dev/zram0
swapon /dev/zram0
"""
_SHOW = "systemctl show --value -p {} nima-migrate"
_GROUP = "/sys/fs/cgroup/system.slice/nima-migrate.service"
#: One script, because the machine is slow to be asked, and all of the service stands still while it is short of memory.
_STARVE = f"""
limit() {{ systemctl set-property --runtime nima-migrate MemoryMax=$1M; }}
limit {SHORT}
for look in $(seq {PATIENCE_S / POLL_S:.0f}); do
    kills=$(sed -n 's/^oom_kill //p' {_GROUP}/memory.events)
    [ "$kills" = 0 ] || break
    sleep {POLL_S}
done
limit {ENOUGH}
echo "$kills"
"""


class Service:
    """The service in the machine."""

    def __init__(self, machine: uml.Machine, before: str = "") -> None:
        self._machine = machine
        self.run(before + _SET_UP)

    def run(self, script: str) -> str:
        done = self._machine.run(script)
        if done.status:
            raise SystemExit(f"ended with {done.status}: {script}\n{done.output}\n{self.journal()}")
        return done.output.strip()

    def journal(self) -> str:
        both = "journalctl --quiet -o cat -u nima-migrate | tail -n 60; journalctl --quiet -o cat -k | tail -n 60"
        return self._machine.run(both).output

    def show(self, name: str) -> str:
        return self.run(_SHOW.format(name))

    def starve(self) -> int:
        """Take memory away until the kernel acts, and give it back; how many workers it ended."""
        return int(self.run(_STARVE))

    def worker_mebibytes(self) -> int:
        """What the largest worker has in memory; 0 while there is none."""
        script = f"""
        for pid in $(cat {_GROUP}/cgroup.procs); do
            grep -qs nimad.worker /proc/$pid/cmdline || continue
            sed -n 's/^VmRSS:[[:space:]]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status
        done | sort -n | tail -n 1"""
        return int(self.run(script) or 0) // 1024

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what}: not within {PATIENCE_S:.0f} s\n{self.show('StatusText')}\n{self.journal()}")
            time.sleep(POLL_S)


def starve(service: Service) -> bool:
    """Whether the service outlives its worker."""
    before = service.show("MainPID")
    service.wait(lambda: "batch" in service.show("StatusText"), "the first batch")
    service.wait(lambda: service.worker_mebibytes() > SHORT, "a worker at work")
    kills = service.starve()
    service.wait(lambda: service.show("StatusText").startswith("Complete: "), "the end of the migration")
    checks = {
        "the kernel ended a worker": kills > 0,
        "it is the same process all the while": service.show("MainPID") == before,
        "systemd did not restart it": service.show("NRestarts") == "0",
        "every row was verified": "Verified: " in service.run("cat /home/pi/.nima/memory/migration.log"),
        "the daemon asks to be spared": service.run(f"cat /proc/{before}/oom_score_adj") == "-100",
    }
    say(f"Workers that the kernel ended for want of memory: {kills}")
    return _all(checks)


def uncounted(service: Service) -> bool:
    """Whether the service completes where limits of memory have no effect."""
    service.wait(lambda: service.show("StatusText").startswith("Complete: "), "the end of the migration")
    controllers = service.run("cat /sys/fs/cgroup/cgroup.controllers")
    checks = {
        "the kernel accounts for no memory of services": "memory" not in controllers.split(),
        "swap is on zram": "/dev/zram0" in service.run("cat /proc/swaps"),
        "systemd did not restart it": service.show("NRestarts") == "0",
        "every row was verified": "Verified: " in service.run("cat /home/pi/.nima/memory/migration.log"),
    }
    return _all(checks)


def _all(checks: Mapping[str, bool]) -> bool:
    for what, well in checks.items():
        say(f"{'ok ' if well else 'NOT'}  {what}")
    return all(checks.values())


def main() -> int:
    parser = common.arguments(__doc__)
    parser.add_argument("--uncounted", action="store_true", help="memory without accounts, and swap on zram")
    options = common.parse(parser)
    disk = uml.image(options.build, options.source, options.nodes or NODES)
    began = time.monotonic()
    parameters = ["cgroup_disable=memory"] if options.uncounted else []
    with uml.Machine(disk, options.mem or MEM_MIB, *parameters) as machine:
        machine.place(options.source)
        well = uncounted(Service(machine, _ZRAM)) if options.uncounted else starve(Service(machine))
    say(f"The machine ran for {time.monotonic() - began:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
