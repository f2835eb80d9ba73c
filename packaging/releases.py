"""The packages that are built: for which releases of Debian, and for which processors."""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
#: What Debian does not have. Everything else in pyproject.toml comes from its packages (`debian/control`).
VENDORED: Final = ("ladybug", "pyarrow", "real-ladybug")


@dataclass(frozen=True)
class Release:
    """`mark` ends the package's version: who goes from one release to the next gets that one's package."""

    suite: str
    mark: str
    python: tuple[int, int]
    openssl: str  # the package with libssl.so.3

    @property
    def python_version(self) -> str:
        return ".".join(map(str, self.python))


@dataclass(frozen=True)
class Processor:
    """By Debian's name, and by the one in a wheel's name."""

    debian: str
    machine: str
    tools: str  # how the names of its binutils begin


RELEASES: Final = (
    Release("bookworm", "deb12", (3, 11), "libssl3"),
    Release("trixie", "deb13", (3, 13), "libssl3t64"),
)
PROCESSORS: Final = (
    Processor("amd64", "x86_64", "x86_64-linux-gnu"),
    Processor("arm64", "aarch64", "aarch64-linux-gnu"),
)


def pins(release: Release, processor: Processor) -> Path:
    """The file that names the wheels, each with its hash."""
    return CHECKOUT / "packaging" / "wheels" / f"{release.suite}-{processor.debian}.txt"


def wheel_options(release: Release, processor: Processor) -> Sequence[str]:
    """For pip: wheels of another machine, of which nothing is run."""
    platforms = [f"--platform={name}_{processor.machine}" for name in _manylinux()]
    return [
        "--only-binary=:all:",
        "--no-deps",
        "--implementation=cp",
        f"--python-version={release.python_version}",
        *platforms,
    ]


def _manylinux() -> Sequence[str]:
    # pip takes each name literally, and adds none of an older glibc. Debian 12 has 2.36.
    return [*(f"manylinux_2_{minor}" for minor in range(36, 16, -1)), "manylinux2014"]


def requirements() -> Sequence[str]:
    """What pyproject.toml asks for of `VENDORED`."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["nima-core"]]
    return [each for each in asked if each.startswith(VENDORED)]


def quiet() -> dict[str, str]:
    """The environment for pip: it is not to speak of its own age."""
    return {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
