"""The log: one format for console and `migration.log`, kept by loguru."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from nimad import rights
from nimad.report.lines import Level

if TYPE_CHECKING:
    from loguru import Message, Record

#: loguru's names for our levels.
_LOGURU = {Level.DEBUG: "DEBUG", Level.INFO: "INFO", Level.WARN: "WARNING", Level.ERROR: "ERROR"}
_TIME = "[{time:YYYY-MM-DD HH:mm:ss}]"
#: Lines kept in memory until it is clear that a log file may be written.
_BUFFERED = 1_000


class Log:
    """Passes lines on to the console at once, and to the log file as soon as there is one."""

    def __init__(self, level: str, console: Callable[[str], None] | None, source: Path) -> None:
        self._level = _LOGURU[Level(level)]
        self._source = source  # whose owner the log file will belong to
        self._waiting: list[tuple[Level, str]] | None = []
        self._file_sink: int | None = None
        logger.remove()
        if console is not None:
            self._console_sink = logger.add(
                _plain(console), level=self._level, format=_format, filter=_for_console, catch=False
            )

    def write(self, level: Level, text: str) -> None:
        """One line, stamped with the time and its level."""
        if self._waiting is not None and len(self._waiting) < _BUFFERED:
            self._waiting.append((level, text))
        self._say(level, text, to="both" if self._file_sink is not None else "console")

    def to_file_only(self, level: Level, text: str) -> None:
        """A line that the console has had in another form."""
        if self._file_sink is not None:
            self._say(level, text, to="file")

    def open(self, path: Path) -> None:
        """Begin to write the log file, with the lines said so far. Without one, say so and go on."""
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        try:
            with rights.working_for(self._source, path):
                self._file_sink = logger.add(
                    str(path).replace("{", "{{").replace("}", "}}"),  # loguru takes a path for a template
                    level=self._level,
                    format=_format,
                    filter=_for_file,
                    encoding="utf-8",
                    opener=_open_private,
                    catch=False,
                )
        except OSError as error:
            self._say(Level.WARN, f"No log file {path} ({error.strerror}); going on without", to="console")
            return
        for level, text in waiting:
            self._say(level, text, to="file")

    def close(self) -> None:
        """Flush and close the log file."""
        if self._file_sink is not None:
            sink, self._file_sink = self._file_sink, None
            with suppress(OSError):
                logger.remove(sink)

    def _say(self, level: Level, text: str, *, to: str) -> None:
        try:
            logger.bind(word=str(level), to=to).log(_LOGURU[level], "{}", text)
        except OSError as error:  # a full disk under the log does not stop a migration
            self.close()
            if to != "console":
                self._say(Level.WARN, f"The log file cannot be written any more ({error.strerror})", to="console")


def _format(_: "Record") -> str:
    return _TIME + " [{extra[word]}] {message}\n"


def _for_console(record: "Record") -> bool:
    return record["extra"].get("to") in ("console", "both")


def _for_file(record: "Record") -> bool:
    return record["extra"].get("to") in ("file", "both")


def _plain(console: Callable[[str], None]) -> Callable[["Message"], None]:
    return lambda message: console(str(message).removesuffix("\n"))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def say_error(text: str) -> None:
    """One line on stderr, in the log's format."""
    sys.stderr.write(f"{time.strftime('[%Y-%m-%d %H:%M:%S]')} [{Level.ERROR}] {text}\n")
