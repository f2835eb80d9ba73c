"""The limits of engine and process for a job."""

import os
import resource
from pathlib import Path
from typing import Final

from nimad.target.database import EngineLimits
from nimad.worker.protocol import Job, Task

#: Jobs that only read a file which another program may have made, or written to.
_OF_OTHERS: Final = frozenset({Task.SEARCH, Task.STATS, Task.COMPARE, Task.EXPORT_ROLLBACK})
#: Of a process: the pages of its address space come first.
_TAKEN: Final = Path("/proc/self/statm")
#: What such a job takes besides what is there and what the engine reserves for the file: as many times the pool and the
#: file, and bytes. A file of one row took 0.25 GiB with a pool of 128 MiB.
_POOLS, _FILES, _SPARE_BYTES = 4, 4, 1 << 30


def limits_of(job: Job) -> EngineLimits:
    return EngineLimits(job.pool_bytes, job.address_space_bytes, job.threads)


def bound_address_space(job: Job) -> None:
    """Limit the address space of this process, which does one job: a damaged size in the file is refused then."""
    if job.task not in _OF_OTHERS or not job.target:
        return
    taken = int(_TAKEN.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    file = sum(path.stat().st_blocks * 512 for path in map(Path, (job.source, job.target)) if path.is_file())
    most = taken + job.address_space_bytes + _POOLS * job.pool_bytes + _FILES * file + _SPARE_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
