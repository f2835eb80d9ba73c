"""Finds the installed nimad, for the scripts beside this file.

Standard library only and the syntax of Python 3.8, because they run in whichever Python the agent's gateway calls.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

#: The words that start nimad, where `nimad setup` wrote them in; the variable NIMAD comes before them.
INSTALLED: Sequence[str] = ()
#: Where it is looked for after the PATH, which is short in a service: as a package, and as the README installs it.
PLACES = ("/usr/bin/nimad", "/opt/nimad/bin/nimad", "~/.local/nimad/bin/nimad", "~/.local/bin/nimad")
#: Exit code where there is no nimad: EX_UNAVAILABLE of sysexits.h, as nimad's own for a missing engine.
NOT_INSTALLED = 69
#: What would have nimad's own Python look for its library in the agent's.
_FOREIGN = ("PYTHONHOME", "PYTHONPATH")


class NotInstalledError(Exception):
    """There is no nimad to call; the message says where it was looked for and what to do."""


def find() -> list[str]:
    """The words that start nimad. Raises `NotInstalledError`."""
    if named := os.environ.get("NIMAD"):
        if not _is_program(named):
            raise NotInstalledError(f"NIMAD names {named}, which is no program; correct it, or leave it out")
        return [named]
    if INSTALLED and _is_program(INSTALLED[0]):
        return list(INSTALLED)
    places = [shutil.which("nimad") or "", *map(os.path.expanduser, PLACES)]
    for place in places:
        if _is_program(place):
            return [place]
    raise NotInstalledError(
        f"nimad is not installed: it is not on the PATH, and not at {', '.join(PLACES)}. Install its package with: "
        "sudo apt install ./nima-migrate_*.deb, or say where it is with NIMAD=FILE before the command"
    )


def line(*words: str) -> str:
    """A command line of nimad's, to be pasted."""
    program = find()
    on_the_path = len(program) == 1 and shutil.which("nimad") == program[0]
    return shlex.join([*(["nimad"] if on_the_path else program), *words])


def environment() -> dict[str, str]:
    """Ours, without what is meant for this Python alone."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN}


def say(level: str, text: str) -> None:
    """One line as in nimad's log. What went wrong goes to stderr, which is what the gateway repeats."""
    stream = sys.stdout if level == "INFO" else sys.stderr
    tell(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] [{level}] {text}\n", stream)


def tell(text: str, stream: TextIO | None) -> None:
    """Write to a stream what its encoding has, as long as there is somebody to read it; the work goes on without."""
    if stream is None:  # `>&-`
        return
    encoding = stream.encoding or "ascii"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # what is still buffered goes there at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_program(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.X_OK)
