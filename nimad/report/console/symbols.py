"""Symbols of the screen: UTF-8, or ASCII where the terminal lacks it."""

import sys
from dataclasses import dataclass

from nimad.printable import one_line


@dataclass(frozen=True)
class Symbols:
    """What a page is drawn with."""

    full: str = "█"
    empty: str = "░"
    differs: str = "≠"
    good: str = "✓"
    warning: str = "!"
    bad: str = "✗"
    arrow: str = "→"
    more: str = "…"
    none: str = "–"

    def text(self, line: str) -> str:
        """A line that can be shown, whoever wrote what is in it: nothing in it that a terminal would obey."""
        return one_line(line).encode("utf-8", "backslashreplace").decode()  # halves of characters


PLAIN = Symbols("#", ".", "!=", "+", "!", "x", "->", "...", "-")


def signs_of(encoding: str | None) -> Symbols:
    """The signs that an encoding has."""
    try:
        "█░≠✓✗→…–".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return Symbols()


def signs_of_stdout() -> Symbols:
    return signs_of(getattr(sys.stdout, "encoding", None))
