"""Memory pages larger than 4 KiB, as on a Raspberry Pi 5, and the engines that fail on them.

Engines before 0.18 give memory back in frames of 4 KiB, which a kernel with pages of 16 KiB refuses: «Releasing
physical memory associated with a frame failed». So does any later one that takes the pages for smaller than they are.
"""

import sys

from nimad.engines.packages import MODULE, install
from nimad.engines.selection import Choice, FoundEngine, upgrade
from nimad.host import machine
from nimad.supervisor.plan import SMALL_PAGE

#: The first release that asks the system how large a page is; all before it take `SMALL_PAGE` for granted.
SINCE = (0, 18)
_KERNEL = "the kernel with pages of 4 KiB: add the line kernel=kernel8.img to /boot/firmware/config.txt and reboot"


def warnings(choice: Choice) -> list[str]:
    """What to say of each reader that will fail by itself at its first write, on this machine."""
    return [_of_reader(reader) for reader in choice.readers if fails_here(reader)]


def fails_here(reader: FoundEngine) -> bool:
    numbers = tuple(int(part) for part in reader.version.split(".")[:2] if part.isdigit())
    return machine.page_bytes() > SMALL_PAGE and numbers < SINCE


def _of_reader(reader: FoundEngine) -> str:
    return (
        f"{reader} reads this memory, and will fail at its first write: this kernel's pages are of "
        f"{machine.page_bytes():,} bytes, and releases before {_shown(SINCE)} need 4,096. Either upgrade it: "
        f"{upgrade(reader)}; or boot {_KERNEL}"
    )


def explained(engine: str, python: str, complaint: str) -> str:
    """Why an engine fails in each checkpoint, and the ways out."""
    first = complaint.splitlines()[0]
    return (
        f"{engine} fails at each checkpoint ({first}): it gives memory back in frames of 4 KiB, and this kernel has "
        f"larger pages, as on a Raspberry Pi 5 (getconf PAGESIZE). Either install a newer engine: "
        f"{install(MODULE, python or sys.executable)}; or boot {_KERNEL}. Then run again"
    )


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
