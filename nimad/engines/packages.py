"""The engine as a Python package: import names and the names that pip uses. Nothing here imports it."""

import shlex
import sys
from collections.abc import Mapping
from typing import Final

from nimad.engines import probe_script

#: The import name of the releases up to 0.15.3.
OLD_MODULE = "real_ladybug"
#: By import name: what pip is to install. `real_ladybug` is the name of the releases up to 0.15.3.
REQUIREMENTS: Final[Mapping[str, str]] = {
    "ladybug": "ladybug>=0.22,<0.23",
    OLD_MODULE: "real-ladybug==0.15.3",
}
#: Releases whose file format, COPY and API this program was measured with: from, and below.
VERSION_RANGE: Final = ((0, 15), (0, 23))
#: Storage version of the first release that holds the least 64-bit integer; the ones before store it as 0 at times.
_HOLDS_LEAST_INTEGER: Final = 49
#: The engine that this program is installed with.
MODULE: Final = "ladybug"
#: Where the Debian package has this program, and the engines with it.
_DEBIAN_HOME: Final = "/usr/lib/nima-migrate"
#: It comes as a file, so apt could not fetch it by its name.
_DEBIAN_INSTALL: Final = "sudo apt install --reinstall ./nima-migrate_*.deb"
#: What `sys.maxsize` is at least where addresses have 64 bits.
_LEAST_64_BIT: Final = 2**32


def least_integer(storage_version: int) -> int:
    """The least integer that comes back from a file of this storage version as it went in."""
    return -(2**63) if storage_version >= _HOLDS_LEAST_INTEGER else -(2**63) + 1


def starting(python: str = sys.executable) -> str:
    """The words that start a Python which imports nothing from the folder where they are pasted.

    `-P` came with Python 3.11, and another one than ours may be older.
    """
    return f"{shlex.quote(python)} -P" if python == sys.executable else f"env -C / {shlex.quote(python)}"


def pip(python: str = sys.executable) -> str:
    return f"{starting(python)} -m pip"


def install(module: str = MODULE, python: str = sys.executable, *, again: bool = False) -> str:
    """The command that installs an engine."""
    if python == sys.executable and sys.prefix == _DEBIAN_HOME:
        return _DEBIAN_INSTALL
    return f"{pip(python)} install {'--force-reinstall ' if again else ''}'{REQUIREMENTS[module]}'"


def install_newest(requirement: str) -> str:
    """The command that brings our own interpreter a package, or a newer release of it."""
    return _DEBIAN_INSTALL if sys.prefix == _DEBIAN_HOME else f"{pip()} install --upgrade '{requirement}'"


def uninstall(name: str, python: str = sys.executable) -> str:
    """The command that removes a package, to go before another one."""
    return "" if python == sys.executable and sys.prefix == _DEBIAN_HOME else f"{pip(python)} uninstall -y {name} && "


def missing(module: str = MODULE) -> str:
    """What to say where an engine is not installed."""
    if sys.maxsize < _LEAST_64_BIT:
        return (
            "LadybugDB exists for 64-bit systems only, and this is a 32-bit one. On a Raspberry Pi 3 or newer, install "
            "the 64-bit Raspberry Pi OS; getconf LONG_BIT then says 64"
        )
    return f"LadybugDB not available. Install: {install(module)}"


def unloadable(how: str, module: str = MODULE, python: str = sys.executable) -> str:
    """What to say of an engine that is there and cannot be imported."""
    where = probe_script.folder_of(module) if python == sys.executable else f"the package {module} of {python}"
    return f"LadybugDB in {where} cannot be loaded ({how}). Install it again: {install(module, python, again=True)}"


def in_range(version: str) -> bool:
    """Whether a release number such as `0.22.0` lies in `VERSION_RANGE`."""
    try:
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return False
    low, high = VERSION_RANGE
    return low <= numbers < high
