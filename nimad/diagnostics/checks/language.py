"""The system's locale: in some, an engine does not find its functions that have an i in their names.

LadybugDB upper-cases names as the locale has it, and in a Turkish one the upper case of i is no I. Our workers have a
locale of their own; the agent's programs have that of whoever starts them.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Final

from nimad.config import env_file
from nimad.diagnostics.checks.finding import ASKING_S, Examined, Finding, ok, warning
from nimad.engines import selection
from nimad.engines.interpreter import LOCALE, Interpreter
from nimad.engines.packages import MODULE
from nimad.host import systemctl
from nimad.host.deadline import within
from nimad.state import provenance

_CHECK: Final = "language"
#: Where a system has its language: Debian's file, and systemd's.
FILES: Final = (Path("/etc/default/locale"), Path("/etc/locale.conf"))
#: What says how letters are cased, the strongest first (setlocale(3)).
_NAMES: Final = ("LC_ALL", "LC_CTYPE", "LANG")
#: LC_CTYPE as newlocale(3) wants it.
_LC_CTYPE_MASK: Final = 1
#: Seconds that systemd may take for an answer.
_ANSWER_S: Final = 5.0


def language(examined: Examined) -> Iterator[Finding]:
    """Each locale that the agent may be started with, and whether its engine's functions are found in it."""
    origins: dict[str, list[str]] = {}
    for origin, variables in _places():
        if named := next((variables[name] for name in _NAMES if variables.get(name)), ""):
            origins.setdefault(named, []).append(origin)
    strange = [named for named in origins if cases_otherwise(named)]
    if not strange:
        yield ok(_CHECK, f"{', '.join(origins) or 'none is set'}; workers have {LOCALE}")
        return
    readers = _readers(examined)
    for named in strange:
        yield from _asked(named, " and ".join(origins[named]), readers)


def _places() -> Iterator[tuple[str, Mapping[str, str]]]:
    yield "this environment", os.environ
    for file in FILES:
        text, _ = env_file.read(file)
        yield str(file), {line.name: line.value for line in env_file.lines(text)}
    if os.geteuid() != 0 and shutil.which("systemctl") is not None:
        with suppress(OSError, subprocess.SubprocessError):
            lines = env_file.lines(systemctl.said("--user", "show-environment", timeout_s=_ANSWER_S))
            yield "the user's systemd", {line.name: line.value for line in lines}


def cases_otherwise(locale: str) -> bool:
    """Whether a locale that is installed has another upper case for a letter of ASCII."""
    libc = ctypes.CDLL(None)
    try:
        libc.newlocale.restype, libc.freelocale.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
        libc.toupper_l.argtypes = (ctypes.c_int, ctypes.c_void_p)
        found = libc.newlocale(_LC_CTYPE_MASK, os.fsencode(locale), None)
    except AttributeError:  # a C library that lacks them
        return False
    if not found:
        return False
    try:
        return any(libc.toupper_l(ord(letter), found) != ord(letter.upper()) for letter in ascii_lowercase)
    finally:
        libc.freelocale(found)


def _readers(examined: Examined) -> list[tuple[str, Interpreter, str]]:
    """What is told of each reader, and how it is asked; our own engine where no reader is found."""
    settings = examined.settings
    with within(ASKING_S) as stop:
        choice = selection.choose_engine(settings, examined.owned, provenance.made_with(settings.target), stop)
    found = [(str(reader), reader.interpreter, reader.module) for reader in choice.readers]
    return found or [(f"{MODULE} of {Interpreter().python}", Interpreter(), MODULE)]


def _asked(locale: str, origin: str, readers: list[tuple[str, Interpreter, str]]) -> Iterator[Finding]:
    for told, interpreter, module in readers:
        with within(ASKING_S) as stop:
            answers, ended = replace(interpreter, locale=locale).ask(stop, ASKING_S, "casing", module)
        why = str(answers[0].get("problem", "")) if answers else ended
        if why:
            what = f"{origin} has {locale}, in which {told} does not find its own functions ({why.rstrip('.')})"
            yield warning(_CHECK, f"{what}; nimad's workers have {LOCALE}, but the agent has not", _mend(origin))
        else:
            yield ok(_CHECK, f"{origin} has {locale}, in which {told} finds its functions")


def _mend(origin: str) -> str:
    agent = f"start the agent with LC_ALL={LOCALE} in its environment"
    everywhere = f"\nor, for every program: sudo update-locale LC_CTYPE={LOCALE}"
    return agent + (everywhere if str(FILES[0]) in origin else "")
