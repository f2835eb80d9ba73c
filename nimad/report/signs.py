"""Signs for the screen: those of UTF-8, or plain ones where the terminal or the pipe has none."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Signs:
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
        """A line whose own signs can be shown as well: messages come from elsewhere."""
        return line if self is not PLAIN else line.translate(_IN_PLAIN).encode("ascii", "replace").decode()


PLAIN = Signs("#", ".", "!=", "+", "!", "x", "->", "...", "-")
_IN_PLAIN = str.maketrans({"«": '"', "»": '"', "→": "->", "…": "...", "–": "-", "✅": "OK:", "·": "-"})


def signs_of(encoding: str | None) -> Signs:
    """The signs that an encoding has."""
    try:
        "█░≠✓✗→…–".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return Signs()


def signs_of_stdout() -> Signs:
    return signs_of(getattr(sys.stdout, "encoding", None))
