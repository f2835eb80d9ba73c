"""A page on the screen: coloured on a terminal, plain in a pipe."""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nimad.printable import as_json, in_json
from nimad.report.console.progress import write
from nimad.report.console.symbols import Symbols, signs_of_stdout

if TYPE_CHECKING:
    from rich.text import Text


class Style(StrEnum):
    """How a line looks, as rich calls it."""

    PLAIN = ""
    HEAD = "bold"
    FAINT = "dim"
    GOOD = "green"
    WARNING = "yellow"
    BAD = "red"


@dataclass(frozen=True)
class ScreenLine:
    """One line of a page, and how it looks."""

    text: str
    style: Style = Style.PLAIN


def show(lines: Iterable[ScreenLine], signs: Symbols) -> None:
    """Print a page."""
    page = [ScreenLine(signs.text(line.text), line.style) for line in lines]
    if not sys.stdout.isatty():
        for line in page:
            write(line.text)
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for each in page:
        console.print(text_of([each]), soft_wrap=True)


def say_line(line: str) -> None:
    """Print one line of ours, whoever wrote what is in it."""
    print(signs_of_stdout().text(line), flush=True)  # noqa: T201 - who asked reads it


def show_json(data: object, *, indent: int | None = 2) -> None:
    """Print an object for programs; what the encoding, or any encoding, lacks is escaped as JSON has it."""
    text = as_json(data, indent=indent, ascii_only=not _is_utf8())
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)  # noqa: T201 - who asked reads it


def show_file(content: str, *, in_utf_8: bool) -> None:
    """Print what could as well be a file: in the encoding that it says itself, or in that of stdout."""
    if in_utf_8:
        sys.stdout.buffer.write(content.encode(errors="replace"))
    else:
        sys.stdout.write(content)
    sys.stdout.flush()


def show_line_of_json(line: bytes) -> None:
    """Print a line that is JSON already, and too long to be read as that; nothing in it is obeyed."""
    text = in_json(line.decode("utf-8", "backslashreplace").rstrip("\n"), one_line=True)
    if not _is_utf8():
        text = re.sub(r"[^\0-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    print(text, flush=True)  # noqa: T201 - who asked reads it


def _is_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def can_be_drawn_on() -> bool:
    """Whether stdout is a terminal on which a page can be drawn at its place."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def text_of(lines: Sequence[ScreenLine]) -> "Text":
    """A page as rich has it; its own marks are none in it."""
    from rich.text import Text

    return Text("\n").join(Text(line.text, style=str(line.style)) for line in lines)


class Live:
    """A page that is drawn anew at its place, until it is closed; then its last state stays on the screen."""

    def __init__(self, signs: Symbols) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._signs, self._last = signs, list[ScreenLine]()
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = RichLive(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop")

    @property
    def width(self) -> int:
        return self._console.width

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        show(self._last, self._signs)

    def show(self, lines: Sequence[ScreenLine]) -> None:
        self._last = list(lines)
        self._live.update(
            text_of([ScreenLine(self._signs.text(line.text), line.style) for line in lines]), refresh=True
        )
