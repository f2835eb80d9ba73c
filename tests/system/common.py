"""What the system tests share: Debian's packages, the build folder, the wheels, nimad itself.

A system test runs on a fresh Debian machine as root. It installs what is missing, keeps what took long to make
under the build folder, and takes away everything else when it ends.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / "build" / "system"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: In mounts of its own: whoever clears up after one that was killed would find this machine's /dev beneath the folder.
BOOTSTRAP = ("unshare", "--mount", "mmdebstrap", "--quiet")
#: Held by whoever installs, because apt waits for nobody and two of these tests may run at once.
_APT = Path("/run/lock/nimad-system-tests")
#: glibc of the wheels, newest first: pip takes each name literally and adds none by itself.
_MANYLINUX = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
#: Released without a wheel. Pure Python, so that one made here serves every machine.
_SOURCE_ONLY = ("sdnotify",)
#: Of pyarrow, what nothing here loads: its tests, its C++ headers and the libraries of features not used.
_UNUSED = ("pyarrow/tests", "pyarrow/include", "pyarrow/src")


@dataclass(frozen=True)
class Done:
    """How a command ended in a machine, and what it printed."""

    status: int
    output: str
    seconds: float


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every system test has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=CHECKOUT, metavar="DIR", help="the nimad to test  [this one]")
    parser.add_argument("--build", type=Path, default=BUILD, metavar="DIR", help="where to keep things  [build/system]")
    parser.add_argument("--nodes", type=int, help="memories in the sample")
    parser.add_argument("--mem", type=int, help="MiB of memory of the machine")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with SIGTERM made an ordinary way to end, after which nothing is left running."""
    signal.signal(signal.SIGTERM, _end)
    return parser.parse_args()


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would end the cleaning up
    sys.exit(128 + number)


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed; what it complained about is shown when it fails."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, check=False, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = f"{done.stdout[-2_000:]}{done.stderr[-4_000:]}"
        raise SystemExit(f"{command[0]} ended with status {done.returncode}:\n{said}")
    return done.stdout


def need(*packages: str) -> None:
    """Install those Debian packages that are not there yet."""
    if os.geteuid() != 0:
        raise SystemExit("a system test builds whole systems: run it as root")
    with _APT.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in packages if not _installed(name)]
        if missing:
            say(f"Installing {' '.join(missing)}")
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            run("apt-get", "-qq", "update", env=quiet)
            run("apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing, env=quiet)


def _installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, check=False, capture_output=True, text=True).stdout == "installed"


def mirror() -> str:
    """The Debian mirror that this machine itself uses."""
    folder = Path("/etc/apt")
    files = [*folder.glob("sources.list"), *sorted(folder.glob("sources.list.d/*"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".list", ".sources"))
    lines = [re.match(r"(?:URIs:|deb\s(?:\[[^]]*\])?)\s*(\S+)", line) for line in text.splitlines()]
    found = [match[1] for match in lines if match and "security" not in match[1]]
    if not found:
        raise SystemExit("no Debian mirror in /etc/apt")
    return found[0]


def wheels(build: Path, source: Path, machine: str, python: str) -> Path:
    """A folder with everything that nimad depends on, for another machine's processor and Python.

    Unpacked, never run: `machine` may be a foreign one.
    """
    dependencies = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = hashlib.sha256("\n".join(sorted(dependencies)).encode()).hexdigest()[:12]
    folder = build / f"wheels-{machine}-{python}-{wanted}"
    if folder.exists():
        return folder
    say(f"Fetching the wheels for {machine}, Python {python}")
    need("python3-venv")
    pip = build / "pip" / "bin" / "python"
    if not pip.exists():
        run(sys.executable, "-m", "venv", build / "pip")
    fresh = _fresh(folder.with_name("wheels.new"))
    made = build / "made-here"
    run(pip, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", made, *_SOURCE_ONLY)
    platforms = [word for name in _MANYLINUX for word in ("--platform", f"{name}_{machine}")]
    what = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    how = ["--quiet", "--no-compile", "--find-links", str(made), "--target", str(fresh)]
    run(pip, "-m", "pip", "install", *how, *what, *dependencies)
    for name in _UNUSED:
        shutil.rmtree(fresh / name, ignore_errors=True)
    return fresh.rename(folder)


def place_nimad(source: Path, folder: Path) -> None:
    """Put nimad itself, as it stands in the checkout, into `folder`, to be run with `python3 -m nimad`."""
    shutil.copytree(source / "nimad", folder / "nimad", ignore=shutil.ignore_patterns("__pycache__"))


def rebuilt(folder: Path, parts: Iterable[str]) -> Path | None:
    """`folder`, new and empty, when it was not built from exactly these parts; None when it can be used as it is."""
    stamp = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    try:
        if (folder / "stamp").read_text(encoding="ascii") == stamp:
            return None
    except FileNotFoundError:
        pass
    _fresh(folder)
    return folder


def built(folder: Path, parts: Sequence[str]) -> None:
    """Note that `folder` is whole."""
    (folder / "stamp").write_text(hashlib.sha256("\n".join(parts).encode()).hexdigest(), encoding="ascii")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
