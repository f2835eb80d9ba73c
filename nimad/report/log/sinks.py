"""The log: one format for console and `migration.log`, entries for the journal, all passed on by loguru."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from nimad import printable
from nimad.errors import NimadError
from nimad.report.level import Level
from nimad.report.log.journal import STDERR, Journal
from nimad.report.log.logfile import LogFile

if TYPE_CHECKING:
    from loguru import Message, Record

#: loguru's names for our levels.
_LOGURU = {Level.DEBUG: "DEBUG", Level.INFO: "INFO", Level.WARN: "WARNING", Level.ERROR: "ERROR"}
_LEVELS = list(Level)
_TIME = "[%Y-%m-%d %H:%M:%S]"
#: Lines kept in memory until it is clear that a log file may be written.
_BUFFERED = 1_000

_FILE, _CONSOLE, _JOURNAL = "file", "console", "journal"


class Log:
    """Passes lines on to console and journal at once, and to the log file as soon as there is one.

    May be kept for many runs: the file stays open from one to the next.
    """

    def __init__(
        self, level: str, console: Callable[[str], None] | None, source: Path, journal: Journal | None = None
    ) -> None:
        self.journal = journal
        #: Where the run is, for the journal's entries.
        self.fields: Mapping[str, str] = {}
        self._level = Level(level)
        self._source = source  # whose owner the log file will belong to
        self._waiting: list[tuple[str, Level, str]] | None = []  # None: nothing is kept for a file
        self._file: LogFile | None = None
        self._refused = ""  # why there is no file, as it was said last
        logger.remove()
        if console is not None:
            logger.add(_plain(console), level=0, format=_format, filter=_for(_CONSOLE), catch=False)
        if journal is not None:
            logger.add(_entries(journal), level=0, format=_format, filter=_for(_JOURNAL), catch=False)

    def set_level(self, level: str) -> None:
        """From now on, leave out what is below this level."""
        self._level = Level(level)

    def write(self, level: Level, text: str) -> None:
        """One line, stamped with the time and its level."""
        self._say(level, text, _CONSOLE, _JOURNAL, _FILE)

    def keep(self, level: Level, text: str, *more: str) -> None:
        """For whoever looks into it later, in file and journal; the console had it in another form, or need not.

        `more`: what has lines of its own, as a stack.
        """
        self._say(level, text, _JOURNAL, _FILE, lines=more)

    def error(self, text: str) -> None:
        """An error, in one entry."""
        self.write(Level.ERROR, text)

    def last(self, text: str) -> None:
        """The error that ends this process: in the file, in the journal, and on stderr where that is another place."""
        self._say(Level.ERROR, text, _FILE)
        if self.journal:
            self.journal.send_last(Level.ERROR, text)
        if not (self.journal and Journal.of_streams((STDERR,))):
            say_error(text)

    def exception(self, traceback: str) -> None:
        """A traceback, in one entry."""
        first, *more = traceback.rstrip("\n").split("\n")
        self._say(Level.ERROR, first, _CONSOLE, _JOURNAL, _FILE, lines=more)

    def begin(self, source: Path) -> None:
        """A run of this memory begins. What was said before a file could be opened is not of this run."""
        self._source = source
        if self._file is None:
            self._waiting = []

    def open(self, path: Path) -> None:
        """Begin to write the log file, with the lines said so far. Without one, say so and go on."""
        if self._file is not None and self._file.path == path:
            return
        self._close_file()
        waiting, self._waiting = self._waiting or [], None
        try:
            self._file = LogFile(path, _format, _for(_FILE))
        except (OSError, NimadError) as error:
            self._refuse(f"No log file {path} ({_reason(error)}); going on without")
            return
        for stamp, level, text in waiting:
            first, *more = text.split("\n")
            self._say(level, first, _FILE, lines=more, stamp=stamp)
        if self._file is not None:
            self._refused = ""

    def rest(self) -> None:
        """Hold the log file no longer, until there is another line for it: its disk can be unmounted meanwhile."""
        if self._file is not None:
            self._file.close()

    def close(self) -> None:
        """Flush and close the log file; another may be opened."""
        self._close_file()
        self._waiting = []

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _say(self, level: Level, text: str, *sinks: str, lines: Sequence[str] = (), stamp: str = "") -> None:
        """Pass a line on, with those that follow it. `stamp`: when it was said, where that is not now.

        Names in a memory, what a hook says, a path: whoever wrote them begins no entry, and commands no terminal.
        """
        if _LEVELS.index(level) < _LEVELS.index(self._level):
            return
        stamp, text = stamp or time.strftime(_TIME), _entry(text, lines)
        if _FILE in sinks and self._waiting is not None and self._file is None and len(self._waiting) < _BUFFERED:
            self._waiting.append((stamp, level, text))
        try:
            if self._file is not None:
                self._file.follow()
        except (OSError, NimadError) as error:
            self._lose_file(error)
        try:
            logger.bind(stamp=stamp, word=str(level), to=sinks, fields=self.fields).log(_LOGURU[level], "{}", text)
        except OSError as error:  # a full disk under the log does not stop a migration
            self._lose_file(error)

    def _lose_file(self, error: OSError | NimadError) -> None:
        self._close_file()
        self._refuse(f"The log file cannot be written any more ({_reason(error)})")

    def _refuse(self, why: str) -> None:
        """Say why there is no file, but not again at every run of a service."""
        if why != self._refused:
            self._refused = why
            self._say(Level.WARN, why, _CONSOLE, _JOURNAL)


def _entry(text: str, lines: Sequence[str]) -> str:
    return printable.lines([text, *(line for more in lines for line in more.split("\n"))])


def _reason(error: OSError | NimadError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _format(_: "Record") -> str:
    return "{extra[stamp]} [{extra[word]}] {message}\n"


def _for(sink: str) -> Callable[["Record"], bool]:
    return lambda record: sink in record["extra"].get("to", ())


def _plain(console: Callable[[str], None]) -> Callable[["Message"], None]:
    return lambda message: console(str(message).removesuffix("\n"))


def _entries(journal: Journal) -> Callable[["Message"], None]:
    def send(message: "Message") -> None:
        extra = message.record["extra"]
        journal.send(Level(extra["word"]), message.record["message"], extra["fields"])

    return send


def say_error(text: str) -> None:
    """One line on stderr, in the log's format; the last word of a process, where that is the journal."""
    text = printable.one_line(text, tabs=True)
    if journal := Journal.of_streams((STDERR,)):
        journal.send_last(Level.ERROR, text)
    else:
        sys.stderr.write(f"{time.strftime(_TIME)} [{Level.ERROR}] {text}\n")


def say_warning(text: str) -> None:
    """The same for what is only to be known."""
    text = printable.one_line(text, tabs=True)
    if journal := Journal.of_streams((STDERR,)):
        journal.send(Level.WARN, text)
    else:
        sys.stderr.write(f"{time.strftime(_TIME)} [{Level.WARN}] {text}\n")


def say_traceback(text: str) -> None:
    """A traceback on stderr, as it is; one entry, where that is the journal."""
    text = printable.lines(text.rstrip("\n").split("\n")) + "\n"
    if journal := Journal.of_streams((STDERR,)):
        journal.send(Level.ERROR, text.rstrip("\n"))
    else:
        sys.stderr.write(text)
