"""The log file, reopened when it was moved away."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from nimad.host import root_helper

if TYPE_CHECKING:
    from loguru import Record


class LogFile:
    """A sink of loguru's on a file; in a folder of root's, opened by root's helper.

    loguru's own `watch` is not used: it would make a folder that is gone anew, and that even when it closes.
    """

    def __init__(self, path: Path, line: Callable[["Record"], str], wanted: Callable[["Record"], bool]) -> None:
        self.path = path
        self._line, self._wanted = line, wanted
        self._sink: int | None = None
        self._made: tuple[int, int] | None = None  # device and inode
        self._open()

    def follow(self) -> None:
        """Write a new file if ours was moved away or removed, as logrotate does; or open ours again."""
        if self._sink is not None and self._is_there():
            return
        if self._sink is None and not self.path.parent.is_dir():
            return  # its disk was unmounted while nothing was written, and may come back
        self.close()
        self.path.parent.stat()  # raises: without its folder, the memory itself is gone
        self._open()

    def close(self) -> None:
        """Hold no file open, until `follow` is to."""
        if self._sink is not None:
            sink, self._sink = self._sink, None
            with suppress(OSError):
                logger.remove(sink)

    def _open(self) -> None:
        self._sink = logger.add(
            str(self.path).replace("{", "{{").replace("}", "}}"),  # loguru takes a path for a template
            level=0,
            format=self._line,
            filter=self._wanted,
            encoding="utf-8",
            errors="backslashreplace",  # halves of characters, as in the name of a file
            opener=self._opened,
            catch=False,
        )

    def _opened(self, path: str, flags: int) -> int:
        if root_helper.holds(self.path):
            descriptor = root_helper.open_for_appending(self.path)
        else:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)  # a FIFO would hold us up
        self._made = _identity(os.fstat(descriptor))
        return descriptor

    def _is_there(self) -> bool:
        try:
            return _identity(self.path.lstat()) == self._made
        except FileNotFoundError:
            return False
        except OSError:  # a folder that was closed to us says nothing about the file
            return True


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
