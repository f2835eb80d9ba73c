"""NIMA's ``.env`` file: lines ``NAME=value`` in shell syntax."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: The file of NIMA's home in which its installer notes them.
NAME: Final = ".env"
#: Bytes of that file that are read: one that is longer is none of the installer's.
_MOST: Final = 64 * 1024
_SET: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=(.*)", re.ASCII | re.DOTALL)
_COMMENT: Final = re.compile(r"(?:^|\s)#")


@dataclass(frozen=True)
class EnvLine:
    """A line that sets a variable, and its number."""

    name: str
    value: str
    number: int


def lines(text: str) -> Iterator[EnvLine]:
    """Return the lines that set a variable, whatever else stands there."""
    for number, line in enumerate(text.splitlines(), 1):
        if parts := _SET.fullmatch(line):
            yield EnvLine(parts[1], _value(parts[2].strip()), number)


def _value(text: str) -> str:
    """Return what stands behind the sign as a shell has it: without quotes, and without a comment."""
    end = text.find(text[0], 1) if text[:1] in ("'", '"') else -1
    if end > 0 and _COMMENT.split(text[end + 1 :], maxsplit=1)[0].strip() == "":
        return text[1:end]
    return _COMMENT.split(text, maxsplit=1)[0].strip()


def read(file: Path, *, follow: bool = True) -> tuple[str, str]:
    """Return what a file holds, and why it was not read: nothing but a short regular one is, or waited for.

    Without `follow` a link is not: by it a user could have root read what is root's.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(file, flags), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return "", f"{file} is not a regular file, and not read"
            data = opened.read(_MOST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return "", ""
    except OSError as error:
        return "", f"{file} cannot be read ({error.strerror})"
    if len(data) > _MOST:
        return "", f"{file} is longer than {_MOST // 1024} KiB, and not read"
    return data.decode("utf-8", "replace"), ""
