#!/usr/bin/env python3
"""Migrate a sample memory on a real arm64 kernel with 16 KiB pages, emulated by qemu.

    python3 tests/system/arm64.py [--nodes N] [--mem M] [--package]

On amd64, as root; no arm64 code is run outside of the emulator. The whole system is one initramfs: Debian 13's kernel
and Python, the wheels as PyPI has them for aarch64, and nimad from the checkout; with `--package`, the Debian package
in dist/ (`make deb`) as it is, with Debian's own click, rich and so on. Exit status 0 only if the page size is 16,384
bytes and the migration is complete and verified. Python is 10 to 30 times slower there.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import common
from common import run, say

#: What the machine's Python is made of, and what the Debian package takes from Debian besides.
_USERLAND = "busybox-static,python3,libc-bin,libstdc++6"
_DEPENDENCIES = (
    *("libssl3t64", "python3-click", "python3-json5", "python3-loguru", "python3-rich", "python3-sdnotify"),
    "python3-watchdog",
)
SUITE, PYTHON, KERNEL = "trixie", "3.13", "linux-image-arm64-16k"
PAGE_BYTES = 16_384
NODES, MEM_MIB = 2_000, 4_096
#: Seconds after which a machine that does not end by itself is ended.
PATIENCE_S = 1_800

_INIT = """\
#!/usr/bin/busybox sh
# PID 1 of the emulated machine: mounts, the test, power off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
/usr/bin/busybox --install -s /usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o size=60% tmpfs /tmp
exec >/dev/console 2>&1 </dev/null
ip link set lo up
busybox sh /opt/test.sh
poweroff -f
"""

#: Each step says how it ended and how long it took, for `_steps` to read.
_TEST = """\
set -o pipefail
step() {
    name=$1; shift
    echo "@begin $name"
    read -r from _ </proc/uptime
    "$@" 2>&1 | cat; status=$?  # through a pipe, because on a terminal nimad draws progress bars
    read -r to _ </proc/uptime
    echo "@end $name $status $from $to"
}
nimad() { PROGRAM "$@"; }
cd /tmp
step compile COMPILE
step page getconf PAGE_SIZE
step machine sh -c 'uname -rm; python3 --version; grep -E "MemTotal|MemAvailable" /proc/meminfo'
step sample nimad sample graph.sqlite --nodes NODES
step plan nimad migrate --source graph.sqlite --dry-run
step migrate nimad migrate --source graph.sqlite --log-level DEBUG
step again nimad migrate --source graph.sqlite
step search nimad search --target graph.ladybug --limit 2 telescope
step like nimad search --target graph.ladybug --limit 2 --like 17
"""


def main() -> int:
    parser = common.arguments(__doc__)
    parser.add_argument("--patience", type=int, default=PATIENCE_S, metavar="S", help="end the machine after S seconds")
    parser.add_argument("--package", action="store_true", help="try the Debian package in dist/")
    options = common.parse(parser)
    common.need("mmdebstrap", "qemu-system-arm", "ipxe-qemu", "cpio", "debian-archive-keyring")
    payload: _Checkout | _Package
    if options.package:
        image = _image(options.build / "arm64-package", ",".join([_USERLAND, *_DEPENDENCIES]))
        payload = _Package(_package(options.source))
    else:
        image = _image(options.build / "arm64", _USERLAND)
        payload = _Checkout(options.source, common.wheels(options.build, options.source, "aarch64", PYTHON))
    with _initrd(image, payload, options.nodes or NODES) as initrd:
        began = time.monotonic()
        console = _boot(image / "vmlinuz", initrd, options.mem or MEM_MIB, options.patience)
        say(f"The machine ran for {time.monotonic() - began:.0f} s")
    return _judge(console)


@dataclass(frozen=True)
class _Checkout:
    """nimad from a checkout, with wheels."""

    source: Path
    wheels: Path
    program = "PYTHONPATH=/opt/nimad python3 -m nimad"
    compiling = "true"

    def place(self, root: Path) -> None:
        shutil.copytree(self.wheels, root / "opt/nimad")
        common.place_nimad(self.source, root / "opt/nimad")


@dataclass(frozen=True)
class _Package:
    """nimad's Debian package; what its installation does there is to compile it."""

    file: Path
    program = "/usr/bin/nimad"
    compiling = "python3 -m compileall -q /usr/lib/nima-migrate /usr/lib/python3/dist-packages"

    def place(self, root: Path) -> None:
        root.mkdir()
        run("dpkg-deb", "-x", self.file, root)


def _package(source: Path) -> Path:
    found = list((source / "dist").glob("*+deb13_arm64.deb"))
    if len(found) != 1:
        raise SystemExit("there has to be one package for arm64 in dist/; make it with: make deb")
    return found[0]


def _image(folder: Path, packages: str) -> Path:
    """Kernel and userland: `vmlinuz` and `base.cpio` in `folder`. Packages are unpacked, none of their code is run."""
    parts = [SUITE, KERNEL, _INIT, packages]
    if common.rebuilt(folder, parts) is None:
        return folder
    say("Building the arm64 image")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        root, kernel = Path(work, "root"), Path(work, "kernel")
        _unpack(root, packages)
        for name in ("doc", "man", "locale", "info", "perl", "perl5", "i18n", "zoneinfo"):
            shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
        for name in ("var/cache", "var/lib/apt", "var/lib/dpkg"):
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("proc", "sys", "dev", "run", "tmp", "root", "opt", "usr/sbin"):
            (root / name).mkdir(exist_ok=True)
        for name in ("bin", "sbin", "lib"):
            if not (root / name).exists():
                (root / name).symlink_to(f"usr/{name}")
        init = root / "init"
        init.write_text(_INIT, encoding="utf-8")
        init.chmod(0o755)
        _pack(root, folder / "base.cpio")
        _unpack(kernel, KERNEL)
        (image,) = kernel.glob("boot/vmlinuz-*")
        shutil.copy(image, folder / "vmlinuz")
    common.built(folder, parts)
    return folder


def _unpack(root: Path, packages: str) -> None:
    line = f"deb [arch=arm64] {common.mirror()} {SUITE} main"
    choice = ["--variant=extract", "--mode=root", "--architectures=arm64", f"--include={packages}"]
    run("mmdebstrap", *choice, f"--keyring={common.KEYRING}", SUITE, root, line)


def _pack(root: Path, archive: Path) -> None:
    """Write everything below `root` as an initramfs archive, owned by root."""
    names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    with archive.open("wb") as file:
        command = ["cpio", "--create", "--format=newc", "--quiet", "--owner=0:0"]
        subprocess.run(command, cwd=root, input=names.encode(), stdout=file, check=True)


@contextmanager
def _initrd(image: Path, payload: _Checkout | _Package, nodes: int) -> Iterator[Path]:
    """The initramfs of one run: the kernel unpacks archives that follow each other over one another."""
    with tempfile.TemporaryDirectory(dir=image) as work:
        root, archive, whole = Path(work, "root"), Path(work, "nimad.cpio"), Path(work, "initrd")
        payload.place(root)
        (root / "opt").mkdir(exist_ok=True)
        words = {"NODES": str(nodes), "PROGRAM": payload.program, "COMPILE": payload.compiling}
        test = re.sub("|".join(words), lambda found: words[found[0]], _TEST)
        (root / "opt/test.sh").write_text(test, encoding="utf-8")
        _pack(root, archive)
        with whole.open("wb") as file:
            for part in (image / "base.cpio", archive):
                file.write(part.read_bytes())
        shutil.rmtree(root)
        archive.unlink()
        say(f"The initramfs has {whole.stat().st_size // 10**6} MB")
        yield whole


def _boot(kernel: Path, initrd: Path, mem: int, patience: int) -> str:
    """Boot, pass the console on, and return it once the machine has ended."""
    command = ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a76", "-smp", "2", "-m", f"{mem}M"]
    command += ["-accel", "tcg,thread=multi", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd)]
    command += ["-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init"]
    lines = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as vm:
        watch = threading.Timer(patience, vm.kill)
        watch.start()
        try:
            assert vm.stdout is not None
            for line in vm.stdout:
                lines.append(line.rstrip())
                say(f"| {lines[-1]}")
        finally:
            watch.cancel()
            vm.kill()
    return "\n".join(lines)


@dataclass(frozen=True)
class Step:
    """One command in the machine: what it printed, how it ended, how long it took."""

    output: str
    status: int
    seconds: float


def _steps(console: str) -> dict[str, Step]:
    found = re.finditer(r"^@begin (\w+)\n(.*?)^@end \1 (\d+) ([\d.]+) ([\d.]+)$", console, re.DOTALL | re.MULTILINE)
    return {m[1]: Step(m[2], int(m[3]), float(m[5]) - float(m[4])) for m in found}


def _judge(console: str) -> int:
    """Say what went well and what did not; 0 when everything did."""
    steps = _steps(console)
    nothing = Step("", -1, 0.0)
    page, migrate, again, search, like = (
        steps.get(name, nothing) for name in ("page", "migrate", "again", "search", "like")
    )
    checks = {
        f"the page size is {PAGE_BYTES}": page.output.strip() == str(PAGE_BYTES),
        "the migration ended with exit status 0": migrate.status == 0,
        "every row was verified": "Verified: " in migrate.output,
        "it says «Migration completed successfully»": "Migration completed successfully" in migrate.output,
        "a second run has nothing to do": again.status == 0 and "Nothing to do" in again.output,
        "a search by text finds something": search.status == 0 and bool(search.output.strip()),
        "a search by embedding finds something": like.status == 0 and bool(like.output.strip()),
    }
    say("")
    for what, well in checks.items():
        say(f"{'ok ' if well else 'NOT'}  {what}")
    say("Seconds: " + ", ".join(f"{name} {step.seconds:.1f}" for name, step in steps.items()))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
