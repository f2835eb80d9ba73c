"""A Debian machine as a container: its own systemd as PID 1, booted in a second, without KVM.

What runs in it are ordinary processes of this machine, in namespaces of their own and without a network. Its disk is a
folder that no run changes: what is written goes to memory, and away with it. The kernel is this machine's; its memory
limits do not reach inside (for these: `uml.py`).
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import common
from common import Done, run, say

#: Debian's releases, by the Python in them.
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
_PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,procps"
#: People who have an account there, and the home of the one whose home is not in /home.
PEOPLE, ELSEWHERE = ("pi", "maya", "jonas"), ("astrid", "/srv/homes/astrid")
_BOOT_S, _HALT_S, _COMMAND_S, _POLL_S = 60.0, 30.0, 100.0, 0.02

#: nimad in a virtual environment whose packages lie outside of it, because pip would want a network.
_PROGRAM = """\
#!/opt/nimad/bin/python
from nimad.cli import main
main()
"""
_SET_UP = """\
set -e
python3 -m venv --without-pip /opt/nimad
for place in /opt/nimad/lib/python3.*/site-packages; do printf '%s\\n' /opt/source /opt/wheels >"$place/nimad.pth"; done
chmod 755 /opt/nimad/bin/nimad-program && mv /opt/nimad/bin/nimad-program /opt/nimad/bin/nimad
python3 -m compileall -q /opt/wheels /usr/lib/python3 || true  # some of it is older than this Python
for name in {people}; do useradd --create-home --shell /bin/sh "$name"; chmod 700 "/home/$name"; done
mkdir -p "$(dirname {home})" && useradd --create-home --home-dir {home} --shell /bin/sh {elsewhere}
systemctl mask systemd-networkd.service systemd-resolved.service systemd-timesyncd.service apt-daily.timer \\
    apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer 2>/dev/null
rm -f /etc/machine-id && : > /etc/machine-id
"""
_ENVIRONMENT = (
    *("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"),
    *("TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0", "container=systemd-nspawn"),
)


def image(build: Path, source: Path, suite: str) -> Path:
    """The disk: Debian, the wheels in /opt/wheels, a virtual environment in /opt/nimad, people. nimad comes later."""
    common.need("systemd-container", "mmdebstrap", "debian-archive-keyring")
    wheels = common.wheels(build, source, os.uname().machine, PYTHONS[suite])
    folder = build / f"nspawn-{suite}"
    parts = [suite, _PACKAGES, _PROGRAM, _SET_UP, wheels.name, *PEOPLE, *ELSEWHERE]
    root = folder / "root"
    if common.rebuilt(folder, parts) is None:
        return root
    say(f"Building the disk of {suite}")
    choice = ["--variant=minbase", f"--include={_PACKAGES}", f"--keyring={common.KEYRING}"]
    run(*common.BOOTSTRAP, *choice, suite, root, common.mirror())
    shutil.copytree(wheels, root / "opt/wheels")
    (root / "opt/nimad/bin").mkdir(parents=True)
    (root / "opt/nimad/bin/nimad-program").write_text(_PROGRAM, encoding="utf-8")
    name, home = ELSEWHERE
    script = _SET_UP.format(people=" ".join(PEOPLE), elsewhere=name, home=home)
    run("chroot", root, "/usr/bin/env", "-i", *_ENVIRONMENT, "sh", "-c", script)
    common.built(folder, parts)
    return root


class NotSo(Exception):  # noqa: N818 - what was found is named in its own words
    """Something in the container is not as it should be."""


class Container:
    """A booted machine, as a context: halted, and every trace of it taken away, at the end."""

    def __init__(self, root: Path) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="run-", dir=root.parent))
        self._name = f"nimad-{os.getpid()}-{root.parent.name}"
        self._root = root
        self._leader = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._groups = [tree / self._name for tree in _hierarchies()]

    def __enter__(self) -> Self:
        try:
            self._boot()
            self._leader = int(_until(self._first_process, _BOOT_S, "the container does not start", self._console))
            _until(self._is_up, _BOOT_S, "the container does not boot", self._console)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()  # which it takes as an orderly halt
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_HALT_S)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for group in self._groups:
            _remove_group(group)
        shutil.rmtree(self._work, ignore_errors=True)

    def place(self, source: Path) -> None:
        """Copy nimad, and its units, into the container, as its Debian package does."""
        with tempfile.TemporaryDirectory(dir=self._work) as work:
            common.place_nimad(source, Path(work))
            shutil.copytree(source / "systemd", Path(work, "systemd"))
            with subprocess.Popen(["tar", "-C", work, "-c", "nimad", "systemd"], stdout=subprocess.PIPE) as tar:
                self.run("mkdir -p /opt/source && tar -C /opt/source -xo", stdin=tar.stdout)
        self.run(
            "chown -R root: /opt/source && python3 -m compileall -q /opt/source/nimad\n"
            "ln -s /opt/nimad/bin/nimad /usr/bin/nimad\n"
            "cp /opt/source/systemd/*.service /usr/lib/systemd/system/\n"
            "cp /opt/source/systemd/user/*.service /usr/lib/systemd/user/\n"
            "systemctl daemon-reload"
        )

    def make_device(self, name: str) -> None:
        """Give the container a device of this machine, by the same name."""
        status = Path(name).stat()
        place = Path(f"/proc/{self._leader}/root{name}")
        place.unlink(missing_ok=True)  # of the scenario before
        os.mknod(place, status.st_mode, status.st_rdev)

    def run(self, script: str, stdin: object = None) -> str:
        """What a shell script, run by root in the container, prints. One that fails is an error."""
        done = self.attempt(script, stdin)
        if done.status:
            raise NotSo(f"ended with {done.status}: {script}\n{done.output}")
        return done.output

    def attempt(self, script: str, stdin: object = None) -> Done:
        """How such a script ends, and what it prints."""
        # Each namespace of the container, its root and working directory.
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        began = time.monotonic()
        done = subprocess.run(
            ["timeout", str(_COMMAND_S), *enter, "env", "-i", *_ENVIRONMENT, "sh", "-c", script],
            stdin=subprocess.DEVNULL if stdin is None else stdin,  # type: ignore[call-overload]
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            errors="replace",
        )
        return Done(done.returncode, done.stdout, time.monotonic() - began)

    def _boot(self) -> None:
        command = ["systemd-nspawn", f"--machine={self._name}", f"--directory={self._root}", "--boot"]
        command += ["--volatile=overlay", "--private-network", "--register=no", "--keep-unit"]
        command += ["--kill-signal=SIGRTMIN+3", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
        # bpf() carries out IPAddressDeny= and DevicePolicy=; without it they would be tested as words only.
        command += ["--system-call-filter=bpf", "--capability=CAP_BPF,CAP_PERFMON", "--console=pipe"]
        for group in self._groups:
            group.mkdir()
        # Into groups of its own first: nspawn makes the container's below the one that it runs in.
        moves = "".join(f"echo $$ > {group}/cgroup.procs && " for group in self._groups)
        with (self._work / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", f'{moves}exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )

    def _first_process(self) -> str:
        """The PID of the container's init, once it is systemd."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return next((child for child in children if _program(child) == "systemd"), "")

    def _is_up(self) -> bool:
        state = self.attempt("systemctl is-system-running --wait").output
        return "running" in state or "degraded" in state

    def _console(self) -> str:
        text = (self._work / "console").read_text(encoding="utf-8", errors="replace")
        alive = self._process is not None and self._process.poll() is None
        return f"{text[-3_000:]}\n(systemd-nspawn {'still runs' if alive else 'has ended'})"


def _hierarchies() -> list[Path]:
    """Where the trees of control groups are that processes of ours may be moved about in."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.procs").exists():
        return [top]
    return [tree for tree in (top / "systemd", top / "unified") if tree.is_dir()]


def _remove_group(group: Path) -> None:
    if not group.exists():
        return
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):  # says EBUSY for a moment after its last process
            Path(folder).rmdir()


def _program(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _until(condition: Callable[[], str | bool], limit_s: float, problem: str, more: Callable[[], str]) -> str | bool:
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{problem}:\n{more()}")
        time.sleep(_POLL_S)
    return found
