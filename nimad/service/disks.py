"""Disks besides the system's own: the mounts that systemd is told of, and which disk is missing.

A disk is what is mounted at a place: a stick, an SSD, a share of a network. It may come after boot, and go in mid-run.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from nimad.host import systemctl

#: Where the set-up names the places to the service: between colons, as in an address, so that nothing is to be quoted.
VARIABLE: Final = "NIMAD_DISKS"
#: Seconds between looks for a disk that is away.
POLL_S: Final = 2.0
#: Folders of the system: no disk of a memory is pulled out of them while it runs.
_OF_THE_SYSTEM: Final = ("/boot", "/dev", "/etc", "/opt", "/proc", "/root", "/run/user", "/sys", "/usr", "/var")
#: What any user may mount, and its kind is the name of the program that does: in /etc/fstab, root would run that.
_OF_USERS: Final = "fuse"
#: File systems that keep no owners: whose the files are is said at mounting.
_WITHOUT_OWNERS: Final = ("vfat", "exfat")
_TABLE: Final = Path("/proc/self/mountinfo")
_FSTAB: Final = Path("/etc/fstab")
_BY_UUID: Final = Path("/dev/disk/by-uuid")


@dataclass(frozen=True)
class Mount:
    """One file system and where it is. `root`: the folder of it that is seen there."""

    point: str
    kind: str
    source: str
    options: tuple[str, ...] = ()
    device: str = ""
    root: str = "/"


def mounts() -> list[Mount]:
    """Everything that is mounted, in the order in which it was."""
    try:
        table = _TABLE.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    # Any user may mount something at a name of hers. The kernel writes blanks, tabs and line feeds in it as numbers;
    # whatever else Python takes for a blank, or for the end of a line, is part of the name.
    return [_mount(line) for line in table.split("\n") if line]


def _mount(line: str) -> Mount:
    """What proc_pid_mountinfo(5) says in one line."""
    before, _, after = line.partition(" - ")
    _, _, device, root, point, *first = before.split(" ")
    kind, source, options = after.split(" ")[:3]
    together = (*first[0].split(","), *options.split(","))
    return Mount(_unescaped(point), kind, _unescaped(source), together, device, _unescaped(root))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)  # a blank is \040


def mount_of(path: Path) -> Mount:
    """What a path without links lies on: of those that begin it, the longest, and of equals the last."""
    best = Mount("/", "an unknown file system", "")
    for each in mounts():
        if path.is_relative_to(each.point) and len(each.point) >= len(best.point):
            best = each
    return best


@dataclass(frozen=True)
class Disk:
    """A disk that the service needs. `lasts`: systemd mounts it at boot; `automatic`: whenever it is looked at."""

    mount: Mount
    uuid: str = ""
    lasts: bool = True
    automatic: bool = False

    @property
    def point(self) -> Path:
        return Path(self.mount.point)

    @property
    def unit(self) -> str:
        return unit_of(self.mount.point)

    def of_unit(self) -> list[str]:
        """What the service's [Unit] says of it: to be stopped with it, and before it."""
        if self.automatic:  # which stops by itself when nobody looks, and comes back when the service does
            trigger = self.unit.removesuffix(".mount") + ".automount"
            return [f"Requires={trigger}", f"After={trigger}"]
        # One that systemd does not know how to mount would refuse the start while it is away.
        return [f"{'BindsTo' if self.lasts else 'PartOf'}={self.unit}", f"After={self.unit}"]

    def of_install(self) -> list[str]:
        return [] if self.automatic else [f"WantedBy={self.unit}"]

    def fstab(self, uid: int, gid: int) -> str:
        """The line of /etc/fstab that has it mounted at boot, if it is there; empty for what any user may mount."""
        if self.mount.kind.startswith(_OF_USERS):
            return ""
        owners = f",uid={uid},gid={gid},umask=077" if self.mount.kind in _WITHOUT_OWNERS else ""
        source = f"UUID={self.uuid}" if self.uuid else _escaped(self.mount.source)
        passes = "0 2" if self.mount.kind.startswith("ext") else "0 0"
        options = f"defaults,nofail,x-systemd.device-timeout=10s{owners}"
        return f"{source} {_escaped(self.mount.point)} {self.mount.kind} {options} {passes}"


def needed(paths: Iterable[Path], home: Path) -> list[Disk]:
    """The disks under these paths, which may go."""
    found: dict[str, Disk] = {}
    for mount in map(mount_of, paths):
        if mount.point != "/" and not _is_the_systems(mount.point, home) and mount.point not in found:
            found[mount.point] = _disk(mount)
    return [found[point] for point in sorted(found)]


def _is_the_systems(point: str, home: Path) -> bool:
    return any(Path(point).is_relative_to(place) for place in _OF_THE_SYSTEM) and not home.is_relative_to(point)


def _disk(mount: Mount) -> Disk:
    shown = systemctl.shown("show", "--property=FragmentPath,TriggeredBy", unit_of(mount.point))
    fragment = shown.get("FragmentPath", "")
    lasts = bool(fragment) and not fragment.startswith("/run/systemd/transient/")
    device = "" if mount.kind.startswith(_OF_USERS) else mount.source
    return Disk(mount, _uuid(device), lasts, ".automount" in shown.get("TriggeredBy", ""))


def _uuid(device: str) -> str:
    if not device.startswith("/dev/") or not _BY_UUID.is_dir():
        return ""
    real = Path(device).resolve()
    return next((link.name for link in sorted(_BY_UUID.iterdir()) if link.resolve() == real), "")


def unit_of(point: str) -> str:
    """The name of the mount's unit, as systemd-escape(1) makes it."""
    plain = "/".join(part for part in point.split("/") if part)
    shown = "".join(_sign(sign) for sign in plain)
    return (f"\\x2e{shown[1:]}" if shown.startswith(".") else shown or "-") + ".mount"


def _sign(sign: str) -> str:
    if sign == "/":
        return "-"
    if re.fullmatch("[A-Za-z0-9:_.]", sign):
        return sign
    return "".join(f"\\x{byte:02x}" for byte in sign.encode(errors="surrogateescape"))


def _escaped(text: str) -> str:
    """A word of fstab(5)."""
    return "".join(f"\\{ord(sign):03o}" if sign in " \t\n\\#" else sign for sign in text)


# In the service


def said(disks: Iterable[Disk]) -> str:
    """What the variable of the service says of them."""
    return ":".join(quote(os.fsencode(disk.point)) for disk in disks)


def named(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Where the set-up says that disks have to be."""
    return tuple(os.fsdecode(unquote_to_bytes(word)) for word in environment.get(VARIABLE, "").split(":") if word)


def away(points: Sequence[str]) -> list[str]:
    """Those at which no disk is mounted now."""
    return [point for point in points if not _disks_at(point)]


def lacking(points: Sequence[str], source: Path) -> list[str]:
    """Where a disk of this memory is away: of those that the set-up named, or else where the memory seems to be."""
    return away(points) if points else _expected(source)


def _expected(source: Path) -> list[str]:
    """Where a disk has to come for a memory that is not there, as /etc/fstab says, or a link that leads nowhere."""
    if os.path.exists(source):  # noqa: PTH110 - False where a folder is closed to us
        return []
    links = [each for each in (source, *source.parents) if os.path.islink(each) and not os.path.exists(each)]  # noqa: PTH110, PTH114
    return away(over(source)) or [os.path.realpath(each) for each in links[-1:]]


def over(file: Path) -> list[str]:
    """Where /etc/fstab has a disk mounted that this file is to lie on."""
    real = Path(os.path.realpath(file))
    return [point for point in of_fstab() if real.is_relative_to(point)]


def of_fstab() -> list[str]:
    """Where fstab(5) has disks mounted, besides the system's own."""
    try:
        lines = _FSTAB.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError:
        return []
    rows = [words for line in lines if len(words := line.split()) > 1 and not words[0].startswith("#")]
    return [point for words in rows if (point := _unescaped(words[1]).rstrip("/")).startswith("/")]


def covered(points: Sequence[str]) -> list[str]:
    """Those whose disk came after the service, which goes on seeing the folder that was there before.

    To open a folder on which nothing is mounted, systemd mounts it over itself, and what comes later lies beneath.
    """
    return [point for point in points if _disks_at(point) and any(_is_folder(each) for each in _at(point))]


def _disks_at(point: str) -> list[Mount]:
    return [each for each in _at(point) if not _is_folder(each)]


def _at(point: str) -> list[Mount]:
    return [each for each in mounts() if each.point == point]


def _is_folder(mount: Mount) -> bool:
    """Whether what is mounted at a place is the folder that is there anyhow."""
    around = mount_of(Path(mount.point).parent)
    beyond = Path(mount.point).relative_to(around.point)
    return mount.device == around.device and mount.root == str(Path(around.root) / beyond)
