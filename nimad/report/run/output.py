"""Where a report is written: whole, and never over a memory."""

import os
import stat
from pathlib import Path

from nimad.errors import CannotWriteError
from nimad.host.disk import kind_of
from nimad.state.paths import replace_bytes

#: Beside the target, unless the report is to be elsewhere.
SUFFIX = ".report.html"
#: What reports beside a target are called, whatever comes behind it.
_REPORTS = ".report"


def save(content: str, place: Path, target: Path, source: Path | None) -> None:
    """Put a report on this target in place. Raises `CannotWriteError`, and has changed nothing then."""
    try:
        _check(place, target, source)
        replace_bytes(place, [content.encode(errors="replace")])
    except OSError as error:
        raise CannotWriteError(
            f"{place} cannot be written ({error.strerror}); name another file with --output"
        ) from None


def _check(place: Path, target: Path, source: Path | None) -> None:
    """Raise where no report belongs: what stands at the name would be gone."""
    if not place.name or place.is_dir():
        raise CannotWriteError(f"{place} is a folder; name a file in it with --output")
    beside = [(target, (".",)), *([(source, ("-",))] if source else [])]
    if any(_belongs_to(each, signs, place) for each, signs in beside):
        raise CannotWriteError(f"{place} belongs to the memory itself; name another file with --output")
    if not os.path.lexists(place):
        return
    if not stat.S_ISREG(place.lstat().st_mode):  # a link, or a device such as /dev/stdout, would become a file
        raise CannotWriteError(f"{place} is no plain file; name another one with --output, or - for stdout")
    if kind := kind_of(place):
        raise CannotWriteError(f"{place} is a database ({kind}); name another file with --output")


def _belongs_to(file: Path, signs: tuple[str, ...], place: Path) -> bool:
    """Whether a name is the file's, or one that it, its engine or its runs give to what stands beside it."""
    if os.path.realpath(place.parent) != os.path.realpath(file.parent) or not place.name.startswith(file.name):
        return False
    rest = place.name.removeprefix(file.name)
    return not rest or (rest.startswith(signs) and not rest.startswith(_REPORTS))
