"""One run of a program, measured from outside: time, processor, bytes written, and memory with all its children."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Seconds between two looks at the memory of a run: reading one process's takes the kernel up to 5 ms.
_LOOK_S = 0.02
#: Bytes of a unit in `/proc/PID/smaps_rollup`.
_UNIT = 1024


class FailedError(Exception):
    """A program that was to be measured did not do its work."""


@dataclass(frozen=True)
class Run:
    """What one run took, its children included. `peak_bytes` is 0 unless memory was looked at."""

    wall_s: float
    cpu_s: float
    written_bytes: int
    peak_bytes: int = 0


def run(command: Sequence[str], *, look_at_memory: bool = False, log: Path | None = None) -> Run:
    """Run a program to its end. Raises `FailedError` with what it said when that is no success.

    Memory is looked at in a run of its own: the looks take time from what is looked at.
    """
    began = time.monotonic()
    out = (log or Path(os.devnull)).open("wb")
    with out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE) as process:
        peak = _peak_until_it_ends(process.pid) if look_at_memory else 0
        # Not reaped yet: a process takes over what its children wrote as it reaps them, and tells until it is reaped.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = time.monotonic() - began
        written = _written(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said = process.stderr.read() if process.stderr else b""
    if process.returncode:
        raise FailedError(f"{' '.join(command)} ended with {process.returncode}: {said.decode(errors='replace')}")
    return Run(wall, used.ru_utime + used.ru_stime, written, peak)


def python(*words: str | Path) -> list[str]:
    """A command for the interpreter that runs this one."""
    return [sys.executable, *map(str, words)]


def memory(pid: int) -> int:
    """Bytes of memory that a process and all its children take together.

    By the proportional set size: a page of a library that several of them have mapped counts once, and in a sum of RSS
    it would count for each. A memory cgroup's peak is no better: it has the cached pages of every file they read.
    """
    return sum(_pss(one) for one in _with_children(pid))


def _peak_until_it_ends(pid: int) -> int:
    peak = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        peak = max(peak, memory(pid))
        time.sleep(_LOOK_S)
    return peak


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for one in found:  # which grows meanwhile
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it has ended
            continue
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended, or is about to
        return 0
    return next((int(line.split()[1]) * _UNIT for line in lines if line.startswith("Pss:")), 0)


def _written(pid: int) -> int:
    """Bytes that a process and the children it reaped caused to be written to disks; on tmpfs, all that it wrote."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    counts = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return counts["write_bytes"] or counts["wchar"]
