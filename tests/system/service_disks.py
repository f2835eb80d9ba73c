#!/usr/bin/env python3
"""Play what happens to the service's surroundings on a small machine: disks that come and go, a user who is renamed,
folders in memory, a Python that is replaced. Under systemd 252 and 257, each booted in a container.

    python3 tests/system/service_disks.py [--suite bookworm|trixie] [SCENARIO …]

As root. Disks are ext4 on loop devices of this machine. Exit status 0 only if all of them went well.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import common
from common import Done
from nspawn import Container
from service import SLOW, UNIT, USER, Service, check, main

#: A small memory, and a disk that has room for its target: what is played here is not how much.
_NODES = 200
_SIZE = 100 * 1024**2
#: Replaces what was started as Python, and C's library, file by file under its name, as a package manager does.
_UPGRADE = """\
import glob, os, shutil
folder = os.path.dirname(os.__file__)
files = glob.glob(f"{folder}/**/*.py", recursive=True) + glob.glob(f"{folder}/**/*.so", recursive=True)
files += [os.path.realpath("/usr/bin/python3")]
files += map(os.path.realpath, glob.glob("/lib/*-linux-gnu/lib[cm].so.6") + glob.glob("/lib64/ld-linux-*.so.2"))
for file in files:
    shutil.copy2(file, f"{file}.dpkg-new")
    os.rename(f"{file}.dpkg-new", file)
for folder in glob.glob(f"{folder}/**/__pycache__", recursive=True):
    shutil.rmtree(folder)
"""
#: The page that has the lines for an instance.
_PAGE = common.CHECKOUT / "docs/RASPBERRY_PI.md"
#: Seconds within which nothing of ours holds a disk that somebody wants to pull.
_HELD_S = 10.0
_FOLLOWING = "; watching for late ones$"


@dataclass(frozen=True)
class Disk:
    """An ext4 disk that the container has as a device, and where it belongs."""

    box: Container
    device: str
    place: str

    @property
    def unit(self) -> str:
        return f"{self.place.strip('/').replace('/', '-')}.mount"

    def mount(self) -> None:
        self.box.run(f"mkdir -p {self.place} && mount {self.device} {self.place}")

    def unmount(self) -> None:
        """As somebody does who wants to pull it: again while it is busy, for so many seconds."""
        deadline = time.monotonic() + _HELD_S
        while (done := self.box.attempt(f"umount {self.place}")).status:
            check(time.monotonic() < deadline, f"{self.place} is let go of within {_HELD_S:.0f} s", done.output)
        held = self.box.attempt(f"grep -ls ' {self.place} ' /proc/[0-9]*/mountinfo").output
        check(not held, "no process has it any more", held)
        found = subprocess.run(["e2fsck", "-fn", self.device], check=False, capture_output=True, text=True)
        check(found.returncode == 0 and "recovery" not in found.stdout, "e2fsck finds it clean", found.stdout)

    def take(self, service: Service) -> None:
        """Move the memory there, and leave a link in its place."""
        folder = f"{service.home}/.nima/memory"
        self.box.run(
            f"install -d -o {USER} -g {USER} {self.place}/memory && mv {folder}/* {self.place}/memory/ && "
            f"rmdir {folder} && ln -s {self.place}/memory {folder}"
        )


@contextmanager
def disk(box: Container, place: str) -> Iterator[Disk]:
    """A new disk, mounted there."""
    common.need("e2fsprogs")
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(_SIZE)
        common.run("mke2fs", "-q", "-t", "ext4", file.name)
        device = common.run("losetup", "--find", "--show", file.name).strip()
        try:
            box.make_device(device)
            found = Disk(box, device, place)
            found.mount()
            yield found
        finally:
            box.attempt(f"systemctl stop {UNIT}; umount -l {place}; systemctl disable {UNIT}")
            common.run("losetup", "--detach", device)


def doctor(service: Service) -> Done:
    return _as_user(service, "nimad doctor")


def status(service: Service) -> str:
    return _as_user(service, "nimad status").output


def _as_user(service: Service, command: str) -> Done:
    who = f"HOME={service.home} setpriv --reuid={service.user} --regid={service.user} --init-groups"
    done = service.box.attempt(f"cd / && {who} {command}")
    return Done(done.status, re.sub(r"\s*\n {18}", " ", done.output), done.seconds)  # lines that were wrapped


def _set_up(service: Service) -> str:
    """What the set-up says of a service that was enabled before, for which it is to take care itself."""
    said = service.box.run(f"systemctl enable {UNIT} && nimad setup --user {USER}")
    service.systemctl("start")
    return said


# Disks


def a_disk_of_fstab(service: Service) -> None:
    """Of which systemd has a unit: the service stops with it, and comes back with it."""
    with disk(service.box, "/mnt/ssd") as ssd:
        unit = f"[Mount]\\nWhat={ssd.device}\\nWhere={ssd.place}\\n"
        service.box.run(f"printf '{unit}' >/etc/systemd/system/{ssd.unit} && systemctl daemon-reload")
        ssd.take(service)
        said = _set_up(service)
        check("fstab" not in said, "a disk that is there at boot is not warned of", said)
        service.wait_for_status(_FOLLOWING)
        ssd.unmount()
        service.wait(lambda: service.show("ActiveState") == "inactive", "the end of the service")
        found, words = doctor(service), f"no disk is mounted at {ssd.place}"
        mend = f"sudo systemctl start {ssd.unit}"
        check(found.status == 2 and words in found.output and mend in found.output, "doctor says why", found.output)
        said = status(service)
        check(words in said and mend in said, "status says why", said)
        ssd.mount()
        service.wait_for_status(_FOLLOWING)
        service.box.run(f"systemctl stop {ssd.unit}")
        check(service.show("ActiveState") == "inactive", "it stops before the disk does", service.lines())
        check(service.show("Result") == "success", "which is no failure", service.lines())
        service.box.run(mend.removeprefix("sudo "))
        service.wait_for_status(_FOLLOWING)
        service.write_in_the_background(3, 0.01)
        service.wait_for_writer()
        service.wait_until_complete()
        found = doctor(service)
        check(f"{UNIT} is active" in found.output, "doctor sees it again", found.output)


def a_stick_without_fstab(service: Service) -> None:
    """The service starts without it, waits in words, and goes on as soon as somebody mounts it."""
    with disk(service.box, f"/media/{USER}/STICK") as stick:
        stick.take(service)
        said = _set_up(service)
        check(f"{stick.place} ext4 defaults,nofail" in said, "setup prints the line for fstab", said)
        service.wait_for_status(_FOLLOWING)
        stick.unmount()
        stick.mount()  # sooner than anybody looks for it
        service.write_in_the_background(3, 0.01)
        service.wait_for_writer()
        service.wait_until_complete()
        service.systemctl("stop")
        stick.unmount()
        service.systemctl("start")
        service.wait_for_status(f"^Waiting for the disk at {stick.place}")
        said = doctor(service).output
        check(f"Waiting for the disk at {stick.place}" in said, "doctor says what it waits for", said)
        said = status(service)
        check(f"no disk is mounted at {stick.place}" in said, "status says what it waits for", said)
        stick.mount()
        service.wait_for_status(_FOLLOWING)
        check(service.show("ActiveState") == "active", "it is active", service.lines())
        stick.unmount()
        service.wait_for_status(f"^Waiting for the disk at {stick.place}")


def a_disk_that_is_mounted_when_looked_at(service: Service) -> None:
    """An automount that lets go when nobody looks for a second: the service outlasts that, and misses nothing."""
    with disk(service.box, "/mnt/auto") as found:
        found.take(service)
        service.box.make_device("/dev/autofs")
        folder, name = "/etc/systemd/system", found.unit.removesuffix(".mount")
        service.box.run(
            f"umount {found.place} && systemctl daemon-reexec && "  # which looks anew for what this kernel can do
            f"printf '[Mount]\\nWhat={found.device}\\nWhere={found.place}\\n' >{folder}/{found.unit} && "
            f"printf '[Automount]\\nWhere={found.place}\\nTimeoutIdleSec=1\\n' >{folder}/{name}.automount && "
            f"systemctl daemon-reload && systemctl start {name}.automount && ls {found.place}/memory"
        )
        try:
            _set_up(service)
            service.wait_for_status(_FOLLOWING)
            service.wait(lambda: service.box.attempt(f"systemctl is-active {found.unit}").status, "its letting go")
            service.write_in_the_background(3, 0.01)
            service.wait_for_writer()
            service.wait_until_complete()
            check(service.show("ActiveState") == "active", "it is active", service.lines())
        finally:
            service.box.run(f"systemctl stop {UNIT} {name}.automount {found.unit}; mkdir -p {found.place}; :")
            found.mount()


def an_instance_on_a_disk_of_its_own(service: Service) -> None:
    """With the lines of docs/RASPBERRY_PI.md, as no set-up writes them for `nima-migrate@NAME`."""
    one = Service(service.box, f"{UNIT}@{USER}", USER, service.began)
    lines = re.findall(r"```ini\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (told,) = [each for each in lines if "NIMAD_DISKS=" in each]
    folder = f"/etc/systemd/system/{one.unit}.service.d"
    with disk(one.box, "/mnt/ssd") as ssd:
        unit = f"[Mount]\\nWhat={ssd.device}\\nWhere={ssd.place}\\n"
        one.box.run(
            f"printf '{unit}' >/etc/systemd/system/{ssd.unit} && mkdir -p {folder} && "
            f"printf %s {shlex.quote(told)} >{folder}/override.conf && systemctl daemon-reload"
        )
        ssd.take(one)
        one.systemctl("reenable")
        try:
            one.systemctl("start")
            one.wait_for_status(_FOLLOWING)
            ssd.unmount()
            one.wait(lambda: one.show("ActiveState") == "inactive", "the end of the instance")
            check(one.show("Result") == "success", "which is no failure", one.lines())
            one.box.run(f"systemctl start {ssd.unit}")
            one.wait_for_status(_FOLLOWING)
            one.write_in_the_background(3, 0.01)
            one.wait_for_writer()
            one.wait_until_complete()
        finally:
            one.box.run(f"systemctl disable --now {one.unit}; rm -r {folder}; systemctl daemon-reload")


# What lies under it


def an_upgrade_under_it(service: Service) -> None:
    """Python and C's library are replaced in mid-run, on a machine that keeps /var and /tmp in memory."""
    service.box.run("mount -t tmpfs tmpfs /var && systemd-tmpfiles --create --prefix=/var 2>/dev/null; :")
    try:
        service.configure(SLOW)
        service.systemctl("start")
        service.in_the_middle()
        before = service.pid
        service.box.run(f"python3 -c {shlex.quote(_UPGRADE)}")
        service.wait_until_complete()
        check((service.pid, service.restarts) == (before, 0), "it is the same process all the while", service.lines())
    finally:
        service.box.run(f"systemctl stop {UNIT}; umount -l /var")


# People


def the_user_was_renamed(service: Service) -> None:
    box, new = service.box, "petra"
    _set_up(service)
    service.wait_for_status(_FOLLOWING)
    service.systemctl("stop")
    box.run(f"usermod --login {new} {USER}")
    try:
        service.systemctl("start", fails=True)
        time.sleep(3)
        check(service.restarts == 0, "it is not tried again and again", service.lines())
        service.user = new
        found = box.attempt("nimad doctor --source /nowhere")
        words, mend = f"runs for {USER}, and there is no such user any more", f"sudo nimad setup --user {new}"
        said = re.sub(r"\s*\n {18}", " ", found.output)
        check(found.status == 2 and words in said and mend in said, "doctor names user and command", found.output)
        check("on an overlay" in said, "doctor says that this container keeps nothing", found.output)
        box.run(mend.removeprefix("sudo "))
        service.systemctl("start")
        service.wait_for_status(_FOLLOWING)
    finally:
        box.run(f"systemctl disable --now {UNIT}; usermod --login {USER} {new}")


SCENARIOS: Sequence[Callable[[Service], None]] = (
    *(a_disk_of_fstab, a_stick_without_fstab, a_disk_that_is_mounted_when_looked_at),
    *(an_instance_on_a_disk_of_its_own, an_upgrade_under_it, the_user_was_renamed),
)


if __name__ == "__main__":
    sys.exit(main(SCENARIOS, __doc__, _NODES))
