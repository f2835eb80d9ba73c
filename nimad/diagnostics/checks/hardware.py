"""The machine: processor, pages, memory limits, disk."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nimad.diagnostics.checks.finding import Examined, Finding, ok, problem, warning
from nimad.engines.packages import missing
from nimad.errors import NimadError
from nimad.host import cgroup, filesystems, machine
from nimad.service.disks import Mount, mount_of

_LEAST_64_BIT: Final = 2**32
_MB = 1_000_000
#: File systems that keep no owners and no permissions, and those whose locks and syncs are another machine's.
_WITHOUT_OWNERS: Final = ("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk")
_FAR: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
#: Here the system itself is read-only, and what is written lies over it: in memory on a Pi with its overlay, and in
#: containers for as long as they live.
_OVER: Final = "overlay"
#: Room below which a disk is too full to work on whatever is to be done.
_LEAST_ROOM = 100 * _MB
#: What an eMMC says of its reserve (JEDEC 84-B50, PRE_EOL_INFO): as it should be.
_RESERVE_NORMAL: Final = ("0x00", "0x01")


def machine_itself(_: Examined) -> Iterator[Finding]:
    what = f"{_model()}, {machine.processors()} processors, Linux {os.uname().release}"
    if sys.maxsize < _LEAST_64_BIT:
        yield problem("machine", f"{what}. {missing()}")
    else:
        yield ok("machine", what)


def _model() -> str:
    for name in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        with suppress(OSError):
            if text := Path(name).read_text(encoding="utf-8", errors="replace").strip("\0\n "):
                return f"{text} ({os.uname().machine})"
    return os.uname().machine


def page_size(_: Examined) -> Iterator[Finding]:
    size = machine.page_bytes()
    large = ", as on a Raspberry Pi 5; the plan makes room for that" if size > 4096 else ""  # noqa: PLR2004
    yield ok("page size", f"{size:,} bytes{large}")


def memory(examined: Examined) -> Iterator[Finding]:
    available = machine.available_memory()
    limits = [limit for group in cgroup.groups() if (limit := group.limit()) is not None]
    text = f"{available // _MB:,} MB can be used"
    text += f", within the {min(limits) // _MB:,} MB that a cgroup allows" if limits else ""
    plan = examined.plan
    if plan is None:
        yield ok("memory", text)
        return
    try:
        plan.check_memory()
    except NimadError as error:
        yield problem("memory", str(error))
    else:
        yield ok("memory", f"{text}; a migration takes {plan.memory_needed // _MB:,} MB at least")


def disk(examined: Examined) -> Iterator[Finding]:
    folder = _existing(examined.settings.target.parent)
    mount, free = mount_of(folder.resolve()), machine.free_disk(folder)
    where = f"{folder}: {free // _MB:,} MB free, {mount.kind} on {_device(mount, folder)}"
    if "ro" in mount.options:
        yield problem("disk", f"{where}, mounted read-only", f"sudo mount -o remount,rw {shlex.quote(mount.point)}")
    elif mount.kind in _WITHOUT_OWNERS:
        yield warning("disk", f"{where}: {_lacks(folder)}")
    elif mount.kind in _FAR:
        yield warning("disk", f"{where}: over a network, changes are not watched and syncs are another machine's")
    elif mount.kind in _IN_MEMORY:
        yield warning("disk", f"{where}: in memory, and gone after the next start")
    else:
        yield _room(examined, where, free)
    if mount.kind == _OVER:
        yield warning("disk", "on an overlay: what is written may be gone after a start; put the memory elsewhere")
    yield from _wear(mount)


def _lacks(folder: Path) -> str:
    """What a file system of sticks cannot do, and what follows from that."""
    there, said = filesystems.of(folder), ["it keeps no owners and no permissions, so anybody here can read the memory"]
    if not there.has_links:
        said.append("it has no links, so the target has one name")
    if there.largest_file:
        said.append(f"it holds no file of more than {there.largest_file // _MB:,} MB")
    return "; ".join(said)


def _room(examined: Examined, where: str, free: int) -> Finding:
    if free < _LEAST_ROOM:
        return problem("disk", f"{where}: too full to work on", "sudo du -xh --max-depth=2 / | sort -h | tail")
    if examined.plan is None or examined.settings.target.exists():
        return ok("disk", where)
    needed = examined.plan.disk_needed
    takes = f"{where}; a migration takes {needed // _MB:,} MB"
    return ok("disk", takes) if free >= needed else problem("disk", f"{takes}: make room")


def _device(mount: Mount, folder: Path) -> str:
    """What the file system lies on, in words; the device's own name behind it."""
    device = _block(mount, folder)
    if device is None:
        return mount.source or "an unknown device"
    name = device.name
    if name.startswith("mmcblk"):
        card = "SD card" if _read(device / "device/type") != "MMC" else "eMMC"
        return f"{card} ({' '.join(filter(None, (_read(device / 'device/name'), name)))})"
    if name.startswith("nvme"):
        return f"NVMe ({name})"
    if name.startswith("sd"):
        return f"{'a turning disk' if _read(device / 'queue/rotational') == '1' else 'a disk'} ({name})"
    return name


def _block(mount: Mount, folder: Path) -> Path | None:
    """The whole disk's folder in /sys, of whichever of its partitions."""
    number = folder.stat().st_dev
    name = Path(os.path.realpath(mount.source)).name if mount.source.startswith("/dev/") else ""
    for place in (f"/sys/dev/block/{os.major(number)}:{os.minor(number)}", f"/sys/class/block/{name}" if name else ""):
        if place and os.path.exists(place):  # noqa: PTH110 - a link of the kernel's
            found = Path(os.path.realpath(place))
            return found.parent if (found / "partition").exists() else found
    return None


def _wear(mount: Mount) -> Iterator[Finding]:
    device = _block(mount, Path(mount.point))
    reserve = _read(device / "device/pre_eol_info") if device else ""
    if device and reserve and reserve not in _RESERVE_NORMAL:
        yield warning("disk", f"{device.name} has used up most of its reserve blocks ({reserve}): replace it")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
