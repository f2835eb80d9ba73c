"""stdout and stderr: characters that they lack are replaced, and a failing stream stops nothing."""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from enum import Enum
from typing import Any, Final

from nimad.errors import ExitCode, NimadError
from nimad.report.console.symbols import PLAIN, Symbols
from nimad.report.log.journal import STDERR, STDOUT

#: Our way with characters that an encoding lacks, as `codecs` knows it, and what some of them become.
STAND_IN: Final = "nimad-stand-in"
_PLAIN: Final[Mapping[str, str]] = {
    **dict(zip(astuple(Symbols()), astuple(PLAIN), strict=True)),
    "«": '"',
    "»": '"',
    "✅": "OK:",
    "·": "-",
    "━": "-",
    "╸": "-",
    "╺": "-",
}
_HALVES: Final = range(0xD800, 0xE000)  # of characters, as in a name that is no UTF-8
#: Option of the interpreter's that a program begun again has: what the terminal's encoding is.
_ENCODING: Final = "nimad_encoding"
#: How a reader that has left is noticed: the other end of a pipe; a terminal that was closed.
_GONE: Final = (errno.EPIPE, errno.ECONNRESET)
_GONE_TERMINAL: Final = (*_GONE, errno.EIO, errno.ENXIO)


class Matter(Enum):
    """What a stdout that takes nothing means to a command."""

    ANSWER = "the output was what it was called for"
    DONE = "what it was called for is done, or under way"
    LOGGED = "the same, and the log file tells of it"


class _Descriptor(io.FileIO):
    """The descriptor of a stream. After the first failure it takes everything, and writes nothing."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.matter = Matter.ANSWER
        self.lost: OSError | None = None
        self._gone = _GONE_TERMINAL if self.isatty() else _GONE

    @property
    def has_reader(self) -> bool:
        """False after `| head -1`, or once the terminal is closed."""
        return self.lost is None or self.lost.errno not in self._gone

    def write(self, data: Any) -> int:
        try:
            while self.lost is None:
                if (written := super().write(data)) is not None:
                    return int(written)
                select.select([], [self], [])  # another program made it non-blocking
        except OSError as error:
            self.lost = error
        return len(data)


def prepare() -> None:
    """Put streams that never fail in place of the interpreter's own; those that a caller put there stay."""
    _fill_closed()
    codecs.register_error(STAND_IN, _stand_in)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(STDOUT, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(STDERR, sys.stderr)


def matters(matter: Matter) -> None:
    """From now on, this is what it means where stdout takes nothing."""
    if (raw := _raw()) is not None:
        raw.matter = matter


def say_at_once(text: str) -> None:
    """Write on stderr from a signal handler, where it can be done without waiting.

    Unbuffered and without locks, because a signal may come in the middle of a line.
    """
    with suppress(OSError, ValueError):
        if select.select([], [STDERR], [], 0)[1]:
            os.write(STDERR, text.encode("ascii"))


def is_lost() -> bool:
    """Whether stdout takes nothing any more."""
    return (raw := _raw()) is not None and raw.lost is not None


def end(code: int) -> int:
    """Hand over what is still to be written; return the exit code that this leads to, of the command's own."""
    sys.stdout.flush()
    raw = _raw()
    if raw is not None and raw.lost is not None and raw.has_reader and code < ExitCode.ENGINE:
        code = _say_lost(raw.matter, str(raw.lost.strerror), code)
    sys.stderr.flush()
    return code


def _say_lost(matter: Matter, why: str, code: int) -> int:
    from nimad.report.log.sinks import say_error, say_warning

    if matter is Matter.ANSWER:
        error = NimadError(f"the output cannot be written ({why}); see where it goes")
        say_error(str(error))
        return int(error.exit_code)
    if matter is Matter.DONE:
        say_warning(f"the output cannot be written ({why}); what was asked for is done")
    return code


def names_in_utf_8() -> None:
    """Begin this program again in Python's UTF-8 mode, where names on the disk would be read in another encoding.

    For SQLite, the engine, workers and the service, a name's bytes are UTF-8. What is printed stays in the terminal's.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "utf-8" or not sys.executable:
        return
    encoding = getattr(sys.stdout or sys.stderr, "encoding", None) or sys.getfilesystemencoding()
    os.execv(  # noqa: S606 - itself
        sys.executable, [sys.executable, "-Xutf8", f"-X{_ENCODING}={encoding}", *sys.orig_argv[1:]]
    )


def _fill_closed() -> None:
    """Have something behind the descriptors 0 to 2 (`>&-`), or the next file that is opened gets one of them."""
    for number in range(STDERR + 1):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _stream(number: int, before: Any) -> io.TextIOWrapper:
    raw = _Descriptor(number)
    encoding = sys._xoptions.get(_ENCODING) or getattr(before, "encoding", None) or "utf-8"  # noqa: SLF001
    by_line = number == STDERR or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), str(encoding), STAND_IN, line_buffering=by_line)


def _raw() -> _Descriptor | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Descriptor) else None


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """What is written in place of the first character that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    shown = f"\\u{ord(sign):04x}" if ord(sign) in _HALVES else _PLAIN.get(sign, "?")
    return shown, error.start + 1
