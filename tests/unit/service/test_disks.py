"""Disks that come and go: which the service needs, what systemd is told of them, and what the service does meanwhile.

That systemd and the kernel do with it what they should is for `tests/system/service_disks.py`.
"""

import os
from pathlib import Path

import pytest
from support.memories import make_memory, node
from test_setup import PROGRAM, home, lines, root, user

from nimad.config import Settings
from nimad.diagnostics.checks import hardware
from nimad.diagnostics.checks.finding import Examined, Verdict
from nimad.diagnostics.service_state import Unit
from nimad.host import systemctl
from nimad.service import disks, setup
from nimad.service.disks import Disk, Mount

__all__ = ["home", "root"]

#: As Linux shows it in a service that opened a folder before the disk came, and in one that came after it.
ROOT = "20 1 179:2 / / rw shared:1 - ext4 /dev/mmcblk0p2 rw"
FOLDER = "240 20 179:2 /mnt/usb /mnt/usb rw,nosuid shared:84 master:1 - ext4 /dev/mmcblk0p2 rw"
BENEATH = "144 20 8:1 / /mnt/usb rw shared:110 master:75 - ext4 /dev/sda1 rw"
NAMED = "145 20 8:2 / /media/pi/MY\\040DISK ro shared:111 - vfat /dev/sda2 rw"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is mounted, as a test writes it down."""
    monkeypatch.setattr(disks, "_TABLE", tmp_path / "mountinfo")
    return tmp_path / "mountinfo"


@pytest.mark.parametrize(
    ("lines", "away", "covered"),
    [([], True, False), ([FOLDER], True, False), ([BENEATH], False, False), ([FOLDER, BENEATH], False, True)],
)
def test_a_folder_that_was_opened_in_a_disks_place_is_no_disk(
    table: Path, lines: list[str], away: bool, covered: bool
) -> None:
    table.write_text("\n".join([ROOT, *lines]) + "\n")
    assert (disks.away(["/mnt/usb"]), disks.covered(["/mnt/usb"])) == (["/mnt/usb"] * away, ["/mnt/usb"] * covered)


def test_a_path_lies_on_the_nearest_disk_above_it(table: Path) -> None:
    table.write_text(f"{ROOT}\n{NAMED}\n")
    assert disks.mount_of(Path("/media/pi/MY DISK/memory")).source == "/dev/sda2"
    assert disks.mount_of(Path("/media/pi/MY DISK 2")).source == "/dev/mmcblk0p2"
    assert "ro" in disks.mount_of(Path("/media/pi/MY DISK")).options


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x85", "\u2028"])
@pytest.mark.parametrize("blank", ["\x0c", "\u00a0", "\u2003"])
def test_the_name_of_a_users_mount_is_no_mount_of_its_own(table: Path, end: str, blank: str) -> None:
    name = f"/home/pi/x{end}{blank.join(('99', '1', '8:1', '/', '/mnt/usb', 'rw'))}"
    table.write_bytes(f"{ROOT}\n50 20 0:40 / {name} rw,nosuid - fuse.of-a-user none rw\n".encode())
    assert [each.point for each in disks.mounts()] == ["/", name]
    assert disks.away(["/mnt/usb"]) == ["/mnt/usb"]


def test_a_memory_on_an_overlay_is_warned_of(table: Path, tmp_path: Path) -> None:
    table.write_text("20 1 0:40 / / rw shared:1 - overlay overlay rw,lowerdir=/lower,upperdir=/upper\n")
    found = list(hardware.disk(Examined(Settings(source=tmp_path / "graph.sqlite", target=tmp_path / "ladybug.lbug"))))
    assert [finding.text for finding in found if finding.verdict is Verdict.WARNING][-1].startswith("on an overlay")


def test_only_disks_that_may_go_are_needed(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemctl, "shown", lambda *_: {})
    more = [f"3{n} 20 8:{n} / {place} rw - ext4 /dev/sdb{n} rw" for n, place in enumerate(("/var", "/home", "/root"))]
    table.write_text("\n".join([ROOT, BENEATH, NAMED, *more]) + "\n")
    paths = [Path("/home/pi"), Path("/var/lib/metrics"), Path("/mnt/usb/memory"), Path("/mnt/usb/log"), Path("/srv")]
    found = disks.needed(paths, Path("/home/pi"))
    assert [str(disk.point) for disk in found] == ["/home", "/mnt/usb"]
    assert [disk.lasts for disk in found] == [False, False]
    assert [disk.mount.point for disk in disks.needed([Path("/root")], Path("/root"))] == ["/root"]


def test_the_line_for_fstab_mounts_by_uuid_and_gives_a_stick_its_owner() -> None:
    assert Disk(Mount("/media/pi/MY DISK", "vfat", "/dev/sda2"), "1A2B-3C4D").fstab(1000, 1001) == (
        "UUID=1A2B-3C4D /media/pi/MY\\040DISK vfat "
        "defaults,nofail,x-systemd.device-timeout=10s,uid=1000,gid=1001,umask=077 0 0"
    )
    assert Disk(Mount("/mnt/usb", "ext4", "/dev/sda1"), "4711").fstab(1000, 1000).startswith("UUID=4711 /mnt/usb ext4 ")


def test_no_line_for_fstab_has_root_run_what_a_user_named() -> None:
    assert not Disk(Mount("/home/pi/usb", "fuse./home/pi/evil", "/dev/sda1"), "4711").fstab(1000, 1000)


def test_the_service_is_told_the_places_whatever_they_are_called() -> None:
    places = ["/mnt/usb", "/media/pi/MY: 100 %", "/mnt/\udcff"]
    said = disks.said(Disk(Mount(place, "ext4", "")) for place in places)
    assert disks.named({disks.VARIABLE: said}) == tuple(places)
    assert Unit({"Environment": f"HOME=/home/pi {disks.VARIABLE}={said}"}).environment[disks.VARIABLE] == said


def set_up_on(root: Path, home: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the drop-in for a memory in `home`'s neighbour `disk`."""
    memory = Path(disk.mount.point, "memory")
    memory.mkdir(parents=True)
    make_memory(memory / "graph.sqlite", nodes=[node(1)])
    monkeypatch.setattr(setup, "_disks", lambda *_: [disk])
    setup.set_up(user(home), memory / "graph.sqlite", PROGRAM, root)
    return lines(root)


def test_the_service_stops_with_its_disk_and_comes_back_with_it(
    root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(Mount(f"{tmp_path}/usb", "ext4", "/dev/sda1"))
    said = set_up_on(root, home, disk, monkeypatch)
    assert {f"BindsTo={disk.unit}", f"After={disk.unit}", f"WantedBy={disk.unit}"} <= set(said)
    assert said.index("[Install]") < said.index(f"WantedBy={disk.unit}")
    # The disk's own place: a folder of it would be mounted over itself, and hold the disk.
    assert f"ReadWritePaths=-{tmp_path}/usb" in said
    assert f"Environment={disks.VARIABLE}={tmp_path}/usb" in said


def test_a_disk_that_systemd_does_not_mount_does_not_refuse_the_start(
    root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(Mount(f"{tmp_path}/stick", "ext4", "/dev/sda1"), lasts=False)
    said = set_up_on(root, home, disk, monkeypatch)
    assert f"PartOf={disk.unit}" in said
    assert not any(line.startswith("BindsTo=") for line in said)
    written = setup.set_up(user(home), Path(disk.mount.point, "memory/graph.sqlite"), PROGRAM, root)
    assert written.away_at_boot == {f"{tmp_path}/stick": disk.fstab(os.getuid(), os.getgid())}


def test_a_disk_that_goes_by_itself_does_not_take_the_service_along(
    root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(Mount(f"{tmp_path}/auto", "ext4", "/dev/sda1"), automatic=True)
    said = set_up_on(root, home, disk, monkeypatch)
    assert f"Requires={disk.unit.removesuffix('.mount')}.automount" in said
    assert not any(
        line.startswith(("BindsTo=", "PartOf=", "WantedBy=", "RequiresMountsFor=", "[Install]")) for line in said
    )


def test_a_home_on_a_disk_is_opened_no_wider(
    root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(Mount(f"{tmp_path}/home", "ext4", "/dev/sda1"))
    monkeypatch.setattr(setup, "_disks", lambda *_: [disk])
    setup.set_up(user(home), None, PROGRAM, root)
    assert [line for line in lines(root) if line.startswith("ReadWrite")] == [f"ReadWritePaths=-{home}/.nima/memory"]
    assert f"BindsTo={disk.unit}" in lines(root)


def test_a_disk_of_fstab_that_the_memory_is_to_lie_on_is_away(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "_FSTAB", tmp_path / "fstab")
    usb = f"{tmp_path}/my\\040disk"
    (tmp_path / "fstab").write_text(
        f"# UUID=1 {usb} ext4\nUUID=1 / ext4\nUUID=2 none swap\nUUID=3 {usb}/ ext4 nofail\n"
    )
    table.write_text(f"{ROOT}\n")
    (tmp_path / "my disk/memory").mkdir(parents=True)
    source = tmp_path / "my disk/memory/graph.sqlite"
    (tmp_path / "memory").symlink_to(source.parent)
    for name in (source, tmp_path / "memory/graph.sqlite"):
        assert disks.lacking([], name) == [f"{tmp_path}/my disk"]
    assert not disks.lacking([], tmp_path / "elsewhere/graph.sqlite")
    environment = {
        "ActiveState": "active",
        "Environment": f"HOME={tmp_path} NIMA_DB_PATH={tmp_path}/memory/graph.sqlite",
    }
    waits = Unit(environment).waits()
    assert waits is not None
    assert waits.text == f"no disk is mounted at {tmp_path}/my disk"
    assert waits.remedy.startswith("sudo systemctl start ")
    table.write_text(f"{ROOT}\n144 20 8:1 / {usb} rw - ext4 /dev/sda1 rw\n")
    assert not disks.lacking([], source)


@pytest.mark.parametrize(
    ("facts", "text", "remedy"),
    [
        ({"ActiveState": "inactive", "BindsTo": "nowhere-usb.mount"}, "does not run: no disk", "nowhere-usb.mount"),
        ({"ActiveState": "failed"}, "no disk is mounted at /nowhere/usb", ""),
        (
            {"ActiveState": "failed", "User": "renamed-since"},
            "runs for renamed-since, and there is no such user",
            "NEW",
        ),
    ],
)
def test_a_service_that_was_enabled_and_does_not_run_has_a_reason(
    facts: dict[str, str], text: str, remedy: str
) -> None:
    named = {"UnitFileState": "enabled", "Environment": f"HOME=/nowhere {disks.VARIABLE}=/nowhere/usb"}
    trouble = Unit(named | facts).trouble()
    assert trouble is not None
    assert text in trouble.text
    assert trouble.remedy.endswith(remedy)
    assert bool(trouble.remedy) == bool(remedy)


def test_a_service_that_is_to_end_may_have_ended() -> None:
    ended = {"UnitFileState": "enabled", "ActiveState": "inactive", "Result": "success"}
    assert Unit(ended | {"ExecMainStartTimestampMonotonic": "17"}).trouble(ends=True) is None
    assert Unit(ended | {"ExecMainStartTimestampMonotonic": "0"}).trouble(ends=True) is not None
    assert Unit(ended | {"ExecMainStartTimestampMonotonic": "17"}).trouble() is not None
