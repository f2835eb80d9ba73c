#!/usr/bin/env python3
"""Find the smallest memory limit at which nimad still migrates a sample memory, verified, to 10 MiB.

    python3 tests/system/memory.py                   bisect
    python3 tests/system/memory.py --limit 350M      one limit: exit status 0 if the migration is complete and verified
    python3 tests/system/memory.py --survive 150M    too little for the worker: does the supervisor end by itself?

As root. Each try is a systemd unit with MemoryMax= in a machine of its own kernel (User-Mode Linux), with cold caches,
from a new target on. Limits are in MiB, as systemd reads its «M».
"""

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import common
import uml
from common import say

NODES, MEM_MIB = 9_770, 1_536
STEP_MIB = 10
#: Seconds that one try may take; a unit that thrashes is ended then.
PATIENCE_S = 900
#: What the unit's own cgroup says at the end of a try, from within: afterwards it is gone.
_WITNESS = r"""
cat >/run/witness.sh <<'END'
cgroup=/sys/fs/cgroup$(sed 's/^0:://' /proc/self/cgroup)
{
    echo "result $SERVICE_RESULT"
    echo "code $EXIT_CODE"
    echo "status $EXIT_STATUS"
    echo "peak $(cat "$cgroup/memory.peak")"
    cat "$cgroup/memory.events"
} >/run/witness
END
"""
_TRY = """
rm -rf /srv/out /run/witness; mkdir /srv/out; sync; echo 3 >/proc/sys/vm/drop_caches
systemd-run --quiet --wait --pipe --collect --unit=try-{number} \\
    -p MemoryMax={limit}M -p MemorySwapMax=0 -p OOMPolicy={policy} -p RuntimeMaxSec={patience} \\
    -p 'ExecStopPost=/bin/sh /run/witness.sh' \\
    -E PYTHONPATH=/opt/nimad:/opt/wheels -E HOME=/root -E LC_ALL=C.UTF-8 \\
    python3 -m nimad migrate --source /srv/graph.sqlite --target /srv/out/graph.ladybug --log-level DEBUG 2>&1
echo "@status $?"
cat /run/witness
rm -f /srv/migration.log
"""


@dataclass(frozen=True)
class Try:
    """One migration under one limit."""

    limit: int
    output: str
    status: int  # that systemd-run passed on
    facts: Mapping[str, str]
    seconds: float

    @property
    def complete(self) -> bool:
        return self.status == 0 and "Verified: " in self.output and "Migration completed successfully" in self.output

    @property
    def survived(self) -> bool:
        """Whether the supervisor ended by itself."""
        return self.facts.get("code") == "exited" and self.facts.get("result") in ("success", "exit-code")

    @property
    def oom_kills(self) -> int:
        return int(self.facts.get("oom_kill", -1))

    @property
    def end(self) -> str:
        return f"{self.facts.get('code', '?')} {self.facts.get('status', '?')}"

    def __str__(self) -> str:
        peak = int(self.facts.get("peak", 0)) // 2**20
        alive = "survived" if self.survived else f"was ended ({self.facts.get('result', '?')})"
        retries = len(re.findall(r"Retrying in", self.output))
        return (
            f"{self.limit:4} MiB: {'complete' if self.complete else 'NOT complete'}, {self.end}, {self.seconds:.0f} s, "
            f"{self.oom_kills} OOM kills, {retries} retries, peak {peak} MiB, the supervisor {alive}"
        )


class Bench:
    """Tries limits, one after the other, in one machine."""

    def __init__(self, machine: uml.Machine, patience: int, *, verbose: bool) -> None:
        self._machine = machine
        self._patience = patience
        self._verbose = verbose
        self._number = 0
        machine.run(_WITNESS)

    def attempt(self, limit: int, policy: str = "continue") -> Try:
        self._number += 1
        script = _TRY.format(number=self._number, limit=limit, policy=policy, patience=self._patience)
        done = self._machine.run(script)
        output, _, rest = done.output.partition("@status ")
        status, *lines = rest.splitlines()
        pairs = dict(line.split(" ", 1) for line in lines if " " in line)
        result = Try(limit, output, int(status), pairs, done.seconds)
        say(str(result))
        if self._verbose or not result.complete:
            for line in (output if self._verbose else _telling(output)).splitlines():
                say(f"    | {line}")
        return result


def _telling(output: str) -> str:
    """What a run said beyond the ordinary: warnings, errors, stacks."""
    return "\n".join(line for line in output.splitlines() if not re.search(r"\[INFO\]|^=+$|Migration", line))


def bisect(bench: Bench, low: int, high: int) -> int:
    """Say the smallest limit between `low`, which is taken to fail, and `high`, to `STEP_MIB`."""
    failed: Try | None = None
    if not bench.attempt(high).complete:
        say(f"Not even {high} MiB is enough")
        return 1
    while high - low > STEP_MIB:
        middle = (low + high) // 2 // STEP_MIB * STEP_MIB
        result = bench.attempt(middle)
        if result.complete:
            high = middle
        else:
            low, failed = middle, result
    below = f"{low} MiB: {failed.end}" if failed else "no less was tried"
    say(f"Smallest MemoryMax= that is enough: {high} MiB ({below})")
    return 0


def survive(bench: Bench, limit: int) -> int:
    """Say what becomes of the supervisor when its worker is killed for memory, under either OOMPolicy."""
    kept = bench.attempt(limit, "continue")
    say("With OOMPolicy=stop, systemd's default, which ends the whole unit:")
    bench.attempt(limit, "stop")
    proven = kept.oom_kills > 0 and kept.survived and kept.status in (0, 75)
    word = "ok " if proven else "NOT"
    say(f"{word}  the supervisor outlives {kept.oom_kills} OOM kills and ends with {kept.status}")
    return 0 if proven else 1


def _mebibytes(text: str) -> int:
    return int(text.upper().removesuffix("M"))


def main() -> int:
    parser = common.arguments(__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--limit", type=_mebibytes, metavar="M", help="check one limit")
    mode.add_argument("--survive", type=_mebibytes, metavar="M", help="check that the supervisor outlives its worker")
    parser.add_argument("--low", type=_mebibytes, default=100, metavar="M", help="a limit known to fail  [100]")
    parser.add_argument("--high", type=_mebibytes, default=800, metavar="M", help="a limit known to do  [800]")
    parser.add_argument("--patience", type=int, default=PATIENCE_S, metavar="S", help="seconds for one try  [900]")
    parser.add_argument("--verbose", action="store_true", help="show all that each try printed")
    return _run(common.parse(parser))


def _run(options: argparse.Namespace) -> int:
    disk = uml.image(options.build, options.source, options.nodes or NODES)
    with uml.Machine(disk, options.mem or MEM_MIB) as machine:
        machine.place(options.source)
        bench = Bench(machine, options.patience, verbose=options.verbose)
        if options.limit:
            return 0 if bench.attempt(options.limit).complete else 1
        if options.survive:
            return survive(bench, options.survive)
        return bisect(bench, options.low, options.high)


if __name__ == "__main__":
    sys.exit(main())
