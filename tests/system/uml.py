"""A Debian machine under User-Mode Linux: a real kernel with real memory cgroups and a real systemd, without KVM.

The kernel runs as ordinary processes of this machine. It shares a folder with it (hostfs), in which it finds
commands and leaves what came of them. Its disk is an image that no run changes.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import common
from common import Done, run, say

SUITE, PYTHON = "bookworm", "3.11"
_PACKAGES = "systemd,systemd-sysv,dbus,python3"
_DISK = "4G"  # sparse
#: Mappings that a process may have here. The machine's kernel maps each page of its processes by itself; with the usual
#: 65,530 a process of some 256 MiB dies of a SIGKILL or SIGSEGV that nothing in the machine accounts for.
_MAPPINGS, _MAPPINGS_FILE = 4_194_304, Path("/proc/sys/vm/max_map_count")
_BOOT_S, _HALT_S, _POLL_S = 90.0, 30.0, 0.05

#: Runs the shared folder's commands, each in a shell, one after the other. Started by systemd.
_AGENT = r"""#!/bin/sh
share=$(sed -n 's/.*share=\([^ ]*\).*/\1/p' /proc/cmdline)
mkdir -p /run/host
mount -t hostfs -o "$share" none /run/host || exit 1
cd /root
: >/run/host/ready
while :; do
    for command in /run/host/*.command; do
        [ -e "$command" ] || continue
        at=${command%.command}
        mv "$command" "$at.running"
        sh "$at.running" </dev/null >"$at.output" 2>&1
        echo $? >"$at.new"
        mv "$at.new" "$at.status"
    done
    sleep 0.1
done
"""
_UNIT = """\
[Unit]
Description=Commands from the shared folder
After=dbus.service

[Service]
Environment=HOME=/root LC_ALL=C.UTF-8 PYTHONPATH=/opt/wheels
ExecStart=/bin/sh /usr/local/lib/agent

[Install]
WantedBy=multi-user.target
"""


def image(build: Path, source: Path, nodes: int) -> Path:
    """The disk: Debian, the wheels in /opt/wheels, a sample memory at /srv/graph.sqlite."""
    common.need("mmdebstrap", "user-mode-linux", "e2fsprogs", "debian-archive-keyring")
    wheels = common.wheels(build, source, "x86_64", PYTHON)
    folder, parts = build / "uml", [SUITE, _PACKAGES, _AGENT, _UNIT, wheels.name, str(nodes)]
    disk = folder / "disk"
    if common.rebuilt(folder, parts) is None:
        return disk
    say("Building the disk of the machine")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        root = Path(work, "root")
        choice = ["--variant=minbase", f"--include={_PACKAGES}", f"--keyring={common.KEYRING}"]
        run(*common.BOOTSTRAP, *choice, SUITE, root, common.mirror())
        shutil.copytree(wheels, root / "opt/wheels")
        _make_sample(root, source, nodes)
        (root / "usr/local/lib/agent").write_text(_AGENT, encoding="utf-8")
        units = root / "etc/systemd/system"
        (units / "agent.service").write_text(_UNIT, encoding="utf-8")
        (units / "multi-user.target.wants").mkdir(exist_ok=True)
        (units / "multi-user.target.wants/agent.service").symlink_to("../agent.service")
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, disk, _DISK)
    common.built(folder, parts)
    return disk


def _make_sample(root: Path, source: Path, nodes: int) -> None:
    place = root / "tmp/nimad"
    common.place_nimad(source, place)
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/tmp/nimad:/opt/wheels", "LC_ALL": "C.UTF-8"}  # noqa: S108
    run("chroot", root, "python3", "-m", "nimad", "sample", "/srv/graph.sqlite", "--nodes", str(nodes), env=clean)
    shutil.rmtree(place)


class Machine:
    """A booted machine, as a context: powered off, and every trace of it taken away, at the end."""

    def __init__(self, disk: Path, mem: int, *parameters: str) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="run-", dir=disk.parent))
        self._share = self._work / "share"
        self._share.mkdir()
        self._count = 0
        self._mappings = _MAPPINGS_FILE.read_text(encoding="ascii").strip()
        if int(self._mappings) < _MAPPINGS:
            _MAPPINGS_FILE.write_text(f"{_MAPPINGS}\n", encoding="ascii")
        self._console = (self._work / "console").open("wb")
        command = ["linux.uml", f"mem={mem}M", f"umid={self._work.name}", f"uml_dir={self._work}"]
        command += [f"ubd0={self._work / 'changes'},{disk}", "root=/dev/ubda", "rw"]
        command += ["con=null", "con0=null,fd:1", "ssl=null", "quiet", "systemd.show_status=0", f"share={self._share}"]
        command += parameters  # of the kernel
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self._work)},  # where the file that is its memory lies, unlinked
        )

    def __enter__(self) -> Self:
        try:
            self._wait_for(self._share / "ready", _BOOT_S)
            self.run("timeout 60 systemctl is-system-running --wait")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None and (self._share / "ready").exists():
            self._submit("systemctl --no-block poweroff")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_HALT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _MAPPINGS_FILE.write_text(f"{self._mappings}\n", encoding="ascii")
        self._console.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def place(self, source: Path) -> None:
        """Copy nimad into the machine as /opt/nimad/nimad."""
        common.place_nimad(source, self._share / "nimad")
        done = self.run("rm -rf /opt/nimad; cp -r /run/host/nimad /opt/nimad")
        shutil.rmtree(self._share / "nimad")
        if done.status:
            raise SystemExit(done.output)

    def share(self, file: Path) -> None:
        """Copy a file into the folder that the machine shares, which is /run/host there."""
        shutil.copyfile(file, self._share / file.name)

    def run(self, script: str, patience: float = 3_600.0) -> Done:
        """Run a shell script as root in the machine."""
        began = time.monotonic()
        at = self._submit(script)
        self._wait_for(at.with_suffix(".status"), patience)
        status = int(at.with_suffix(".status").read_text(encoding="ascii"))
        output = at.with_suffix(".output").read_text(encoding="utf-8", errors="replace")
        return Done(status, output, time.monotonic() - began)

    def _submit(self, script: str) -> Path:
        self._count += 1
        at = self._share / f"{self._count:04}"
        at.with_suffix(".part").write_text(script + "\n", encoding="utf-8")
        at.with_suffix(".part").rename(at.with_suffix(".command"))
        return at

    def _wait_for(self, path: Path, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not path.exists():
            time.sleep(_POLL_S)
            if self._process.poll() is not None or time.monotonic() > deadline:
                end = (self._work / "console").read_text(encoding="utf-8", errors="replace")[-3_000:]
                raise SystemExit(f"the machine does not answer; the end of its console:\n{end}")
