#!/usr/bin/env python3
"""Build the Debian packages of nimad: for two releases and two processors, on any amd64 Debian machine.

    make deb

The packages come to dist/. Their wheels are the pinned ones of packaging/wheels/. Nothing of another processor is run,
and two builds of one commit give the same bytes: times are the commit's, and everything is sorted and owned by root.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import manual
import releases
from releases import CHECKOUT, PROCESSORS, RELEASES, Processor, Release

sys.path.insert(0, str(CHECKOUT))
from nimad._version import VERSION  # from this checkout, wherever an installed one is

BUILD: Final = CHECKOUT / "build" / "deb"
DIST: Final = CHECKOUT / "dist"
PACKAGE: Final = "nima-migrate"
MB: Final = 1_000_000
#: Bytes that a package may have, and may take on the disk.
LARGEST, LARGEST_INSTALLED = 45 * MB, 140 * MB
#: Where everything lies that no other program is to find: a virtual environment made by hand. So /usr/bin/python3,
#: which may be an agent's, does not see our engine, and `sys.executable -m nimad.worker` does.
HOME: Final = Path("usr/lib") / PACKAGE
#: Where Debian keeps its Python packages; the only other place that is looked into.
DEBIAN_PACKAGES: Final = "/usr/lib/python3/dist-packages"

#: Of pyarrow's 165 MB, what the engine and nimad load; they use nothing else of it. The libraries are those
#: that `lib` needs, each by the name under which it is loaded; wheels have some under two more.
ARROW: Final = (
    *("__init__.py", "_generated_version.py", "ipc.py", "types.py", "util.py", "lib.*.so"),
    *("compute.py", "_compute_docstrings.py", "_compute.*.so"),  # which FixedSizeListArray asks for
    *("_parquet.*.so", "fs.py", "_fs.*.so"),  # which `parquet` asks for
    *(f"lib{name}.so.[0-9]???" for name in ("arrow", "arrow_acero", "arrow_compute", "arrow_dataset", "arrow_python")),
    *(f"lib{name}.so.[0-9]???" for name in ("arrow_substrait", "parquet")),
)
#: What comes of a wheel: patterns, by folder.
KEPT: Final = {
    "pyarrow": ARROW,
    "pyarrow/parquet": ("__init__.py", "core.py"),
    "pyarrow/vendored": ("__init__.py", "docscrape.py"),
    "ladybug": ("*.py", "*.so"),
    "real_ladybug": ("*.py", "*.so"),
}
#: Texts of a wheel that have to go with it, and their names in the documentation.
LICENCES: Final = {"licenses/LICENSE.txt": "pyarrow-licences.txt", "licenses/NOTICE.txt": "pyarrow-notice.txt"}
#: Debian's package for each library that the wheels need; the C++ library of Debian 12 is newer than theirs.
LIBRARIES: Final = {
    "libssl.so.3": "",  # whose package is named by the release
    "libcrypto.so.3": "",
    "libstdc++.so.6": "libstdc++6 (>= 12)",
    "libgcc_s.so.1": "libgcc-s1 (>= 3.0)",
    **dict.fromkeys(
        ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "ld-linux-x86-64.so.2"),
        "libc6 (>= 2.36)",
    ),
    "ld-linux-aarch64.so.1": "libc6 (>= 2.36)",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="RELEASE-PROCESSOR", help="build just one, as bookworm-arm64")
    parser.add_argument("--dist", type=Path, default=DIST, metavar="DIR", help="where the packages go  [dist]")
    options = parser.parse_args()
    wanted = [(r, p) for r in RELEASES for p in PROCESSORS if options.only in (None, f"{r.suite}-{p.debian}")]
    if not wanted:
        parser.error(f"there is no {options.only}")
    _check_tools(processor for _, processor in wanted)
    options.dist.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for package in pool.map(lambda pair: build(pair[0], pair[1], options.dist), wanted):
            print(f"{package}  {package.stat().st_size / MB:.1f} MB", flush=True)
    return 0


def _check_tools(processors: Iterator[Processor]) -> None:
    tools = {"dh": "debhelper", "dpkg-buildpackage": "dpkg-dev"}
    tools |= {f"{p.tools}-strip": f"binutils-{p.tools.replace('_', '-')}" for p in processors}
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"Missing here; type: sudo apt install {' '.join(missing)}")


def build(release: Release, processor: Processor, dist: Path) -> Path:
    """Build one package; return its file."""
    when = _when()
    full = f"{VERSION}+{release.mark}"
    tree = BUILD / f"{release.suite}-{processor.debian}" / f"{PACKAGE}-{full}"
    shutil.rmtree(tree.parent, ignore_errors=True)
    tree.mkdir(parents=True)
    _lay_out(tree, release, processor, full, when)
    log = tree.parent / "build.log"
    # The engine of another machine needs no compiler of it: -d.
    command = ["dpkg-buildpackage", "-b", "-d", "-uc", "-us", f"-a{processor.debian}"]
    with log.open("wb") as out:
        clean = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(when), "TZ": "UTC"}
        done = subprocess.run(
            command, cwd=tree, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, env=clean
        )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text(errors='replace')[-3_000:]}"
        )
    (made,) = tree.parent.glob("*.deb")
    check_size(made)
    return Path(shutil.copyfile(made, dist / made.name))


def check_size(package: Path) -> None:
    """Raise when a package has grown too large for a small card, or for a slow line."""
    query = ["dpkg-deb", "--field", str(package), "Installed-Size"]
    installed = int(subprocess.run(query, check=True, capture_output=True, text=True).stdout) * 1024
    if package.stat().st_size > LARGEST or installed > LARGEST_INSTALLED:
        raise SystemExit(
            f"{package} has {package.stat().st_size / MB:.1f} MB, and {installed / MB:.1f} MB when it is installed; "
            f"allowed are {LARGEST / MB:.0f} and {LARGEST_INSTALLED / MB:.0f}"
        )


def _when() -> int:
    """The time that all files get: SOURCE_DATE_EPOCH, or that of the last commit, or of the list of changes."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    try:
        log = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], cwd=CHECKOUT, check=True, capture_output=True, text=True
        )
        return int(log.stdout)
    except (OSError, subprocess.CalledProcessError):
        return int((CHECKOUT / "CHANGELOG.md").stat().st_mtime)


# The tree that debhelper packs


def _lay_out(tree: Path, release: Release, processor: Processor, version: str, when: int) -> None:
    packages = tree / HOME / "lib" / f"python{release.python_version}" / "site-packages"
    packages.mkdir(parents=True)
    _unpack(release, processor, packages, tree)
    plain = shutil.ignore_patterns("__pycache__")
    # Not nimad/units, which an installation with pip sets up: here they are systemd's own.
    shutil.copytree(CHECKOUT / "nimad", packages / "nimad", ignore=shutil.ignore_patterns("__pycache__", "units"))
    (packages / "debian.pth").write_text(f"{DEBIAN_PACKAGES}\n", encoding="ascii")
    make_environment(tree / HOME, release)
    for name in ("README.md", "CHANGELOG.md", "docs", "etc"):
        place = CHECKOUT / name
        shutil.copytree(place, tree / name, ignore=plain) if place.is_dir() else shutil.copy(place, tree / name)
    _write_starters(tree)
    (tree / "man").mkdir()
    for name, text in manual.pages(VERSION, datetime.fromtimestamp(when, UTC)).items():
        (tree / "man" / name).write_text(text, encoding="utf-8")
    _prepare_debian(tree, release, version, when)


def _unpack(release: Release, processor: Processor, packages: Path, tree: Path) -> None:
    """The pinned wheels, without what is never loaded. debhelper strips them."""
    for wheel in _wheels(release, processor):
        name, version = wheel.name.split("-")[:2]
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages, [entry for entry in archive.namelist() if _is_kept(entry)])
            for entry, place in LICENCES.items():
                with suppress(KeyError):
                    (tree / place).write_bytes(archive.read(f"{name}-{version}.dist-info/{entry}"))
    for path in packages.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _wheels(release: Release, processor: Processor) -> Sequence[Path]:
    """The pinned wheels, fetched where they are not here yet."""
    pins = releases.pins(release, processor)
    pinned = set(re.findall("sha256:([0-9a-f]{64})", pins.read_text(encoding="utf-8")))
    folder = BUILD / "wheels" / f"{release.suite}-{processor.debian}"
    found = _by_hash(folder)
    if not pinned <= found.keys():
        command = [sys.executable, "-m", "pip", "download", "--quiet", *releases.wheel_options(release, processor)]
        where = ["--dest", str(folder), "--require-hashes", "--requirement", str(pins)]
        subprocess.run([*command, *where], check=True, env=releases.quiet())
        found = _by_hash(folder)
    return [found[digest] for digest in sorted(pinned)]


def _by_hash(folder: Path) -> Mapping[str, Path]:
    return {hashlib.sha256(wheel.read_bytes()).hexdigest(): wheel for wheel in folder.glob("*.whl")}


def _is_kept(entry: str) -> bool:
    path = Path(entry)
    return len(path.parts) > 1 and any(Path(path.name).match(each) for each in KEPT.get(str(path.parent), ()))


def make_environment(home: Path, release: Release) -> None:
    """A virtual environment: what tells Python is a link to it and a file beside that (PEP 405)."""
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(f"../../../bin/python{release.python_version}")
    # Debian's packages come by `debian.pth`: with «true», those of /usr/local and of the user would come before them.
    text = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {release.python_version}\n"
    (home / "pyvenv.cfg").write_text(text, encoding="ascii")


def _write_starters(tree: Path) -> None:
    """The command, and its completion: click's own, of the release that is installed, when it is first asked for."""
    texts = {
        "usr/bin/nimad": f"#!/{HOME}/bin/python3 -P\nfrom nimad.cli import main\n\nmain()\n",
        "usr/share/bash-completion/completions/nimad": 'eval "$(_NIMAD_COMPLETE=bash_source nimad)"\n',
        "usr/share/zsh/vendor-completions/_nimad": (
            '#compdef nimad\neval "$(_NIMAD_COMPLETE=zsh_source nimad)"\n_nimad_completion "$@"\n'
        ),
    }
    for name, text in texts.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="ascii")
    (tree / "usr/bin/nimad").chmod(0o755)


# debian/


def _prepare_debian(tree: Path, release: Release, version: str, when: int) -> None:
    debian = tree / "debian"
    shutil.copytree(CHECKOUT / "packaging" / "debian", debian)
    for unit in (f"{PACKAGE}.service", f"{PACKAGE}@.service"):
        shutil.copy(CHECKOUT / "systemd" / unit, debian / f"{unit}")
    shutil.copy(CHECKOUT / "systemd" / "user" / f"{PACKAGE}.service", debian / f"{PACKAGE}.user.service")
    changes = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    (debian / "changelog").write_text(changelog(changes, version, release, when), encoding="utf-8")
    major, minor = release.python
    needs = {
        "python:Depends": f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})",
        "vendored:Depends": ", ".join(_library_packages(tree / HOME, release)),
    }
    lines = [f"{name}={value}\n" for name, value in needs.items()]
    (debian / "depends").write_text("".join(lines), encoding="utf-8")


def changelog(changes: str, version: str, release: Release, when: int) -> str:
    """CHANGELOG.md as Debian has it. The newest entry gets the version that is built; an undated one, its time."""
    entries: list[str] = []
    for heading, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", changes, re.MULTILINE):
        number, _, date = heading.partition(" ")
        full = f"{number}+{release.mark}" if entries else version
        dated = re.search(r"\d{4}-\d\d-\d\d", date)
        moment = datetime.fromisoformat(dated[0]).replace(tzinfo=UTC) if dated else datetime.fromtimestamp(when, UTC)
        entries.append(
            f"{PACKAGE} ({full}) {release.suite}; urgency=medium\n\n{_items(body)}\n\n"
            f" -- {_maintainer()}  {format_datetime(moment)}\n"
        )
    return "\n".join(entries)


def _items(body: str) -> str:
    """The list of one version, in lines as long as Debian's."""
    entries = re.split(r"^- ", body.strip(), flags=re.MULTILINE)[1:]
    wrapped = [
        textwrap.fill(
            " ".join(entry.split()), 78, initial_indent="  * ", subsequent_indent="    ", break_on_hyphens=False
        )
        for entry in entries
    ]
    return "\n".join(wrapped)


def _maintainer() -> str:
    control = (CHECKOUT / "packaging" / "debian" / "control").read_text(encoding="utf-8")
    (found,) = re.findall(r"^Maintainer: (.+)$", control, re.MULTILINE)
    return str(found)


def _library_packages(home: Path, release: Release) -> Sequence[str]:
    """Debian's packages for the libraries that the vendored ones need and do not bring."""
    files = sorted(home.rglob("*.so*"))
    brought = {path.name for path in files}
    found = set()
    for path in files:
        listed = subprocess.run(["readelf", "-dW", path], check=True, capture_output=True, text=True).stdout
        found |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", listed))
    unknown = found - brought - LIBRARIES.keys()
    if unknown:
        raise SystemExit(f"{home}: no package is known for {', '.join(sorted(unknown))}; name it in LIBRARIES")
    return sorted({LIBRARIES[name] or release.openssl for name in found - brought})


if __name__ == "__main__":
    sys.exit(main())
