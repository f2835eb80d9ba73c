"""Disks that come and go: which the service needs, what systemd is told of them, and what the service does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.memories import make_memory, node
from support.services import service

from nimad.diagnostics import service_state
from nimad.service import disks


@pytest.mark.parametrize(
    ("point", "unit"),
    [
        ("/mnt/usb", "mnt-usb.mount"),
        ("/media/pi/MY DISK", "media-pi-MY\\x20DISK.mount"),
        ("/.nima-2", "\\x2enima\\x2d2.mount"),
        ("/srv/ä", "srv-\\xc3\\xa4.mount"),
        ("/", "-.mount"),
    ],
)
def test_a_units_name_is_what_systemd_makes_of_the_place(point: str, unit: str) -> None:
    assert disks.unit_of(point) == unit
    if shutil.which("systemd-escape"):
        said = subprocess.run(["systemd-escape", "--path", "--suffix=mount", point], check=True, capture_output=True)
        assert said.stdout.decode().strip() == unit


def test_the_service_waits_for_a_disk_in_words_and_is_ready_meanwhile(tmp_path: Path) -> None:
    make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    with service(tmp_path, NIMAD_DISKS=f"{tmp_path}/usb") as running:
        running.wait_for_status(f"^Waiting for the disk at {tmp_path}/usb$")
        running.wait_for_message("READY=1")
        assert running.stop() == 0
    assert running.log.count("Waiting for the disk") == 1
    assert not (tmp_path / "ladybug.lbug").exists()
    assert not (tmp_path / "graph.ladybug").exists()


def test_a_service_that_was_not_set_up_waits_for_the_disk_that_a_link_leads_to(tmp_path: Path) -> None:
    """As `nima-migrate@pi`, or a user's own: no set-up says which disks there are."""
    memory, stick = tmp_path / ".nima/memory", tmp_path / "stick"
    memory.parent.mkdir()
    memory.symlink_to(stick)
    with service(tmp_path, "--source", memory / "graph.sqlite", "--after", "exit") as running:
        running.wait_for_status(f"^Waiting for the disk at {stick}$")
        running.wait_for_message("READY=1")
        stick.mkdir()
        make_memory(stick / "graph.sqlite", nodes=[node(1)])
        assert running.process.wait(40) == 0
    assert (stick / "graph.ladybug").exists()


def test_the_service_holds_no_file_while_there_is_nothing_to_do(tmp_path: Path) -> None:
    make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    with service(tmp_path) as running:
        running.wait_for_status("; watching for late ones$")
        open_files = Path(f"/proc/{running.process.pid}/fd")

        def held() -> list[str]:
            links = [os.readlink(link) for link in open_files.iterdir()]  # noqa: PTH115 - some lead to no file
            return [link for link in links if link.startswith(f"{tmp_path}/") and "output-" not in link]

        running.wait_for(lambda: not held(), "the end of the last look")
        assert running.stop() == 0
    assert "Stopping: " in (tmp_path / "migration.log").read_text()


def test_what_a_service_says_of_itself_is_no_other_fact_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own service says what it likes, and root asks the doctor."""
    said = "complete\rId=nima-migrate; reboot\x85User=root\u2028UnitFileState=enabled"
    program = tmp_path / "systemctl"
    program.write_text(
        f"#!/bin/sh\ncat <<'END'\nId=nima-migrate.service\nUser=pi\nStatusText={said}\nEND\n", newline=""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    unit = next(service_state.units())
    assert (unit.name, unit.facts["User"], unit.enabled) == ("nima-migrate", "pi", False)
    assert unit.facts["StatusText"] == said
