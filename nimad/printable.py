"""Text of unknown origin, made safe for terminals, logs and units."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

#: Code points that a terminal or a reader of lines obeys: C0, DEL and C1, the ends of a line and of a paragraph, and
#: those that turn the direction of a line around.
_C0: Final = range(0x20)
_OTHERS: Final = (
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
_OBEYED: Final[Mapping[int, str]] = dict.fromkeys([*_C0, *_OTHERS], "?")
_WITH_TABS: Final = {sign: shown for sign, shown in _OBEYED.items() if sign != ord("\t")}
#: From the first quotation mark to the last: what stands between may have some itself.
_QUOTED: Final = re.compile(r"(['\"`]).*\1", re.DOTALL)
#: json.dumps escapes C0 itself; what else there is stands inside strings only.
_IN_JSON: Final = {sign: f"\\u{sign:04x}" for sign in _OTHERS}
_IN_LINE_OF_JSON: Final = {sign: f"\\u{sign:04x}" for sign in _OBEYED}


def one_line(text: str, *, tabs: bool = False) -> str:
    """A text as one line in which nothing is obeyed; tabs may stay."""
    return text.translate(_WITH_TABS if tabs else _OBEYED)


def lines(texts: Sequence[str]) -> str:
    """An entry of several lines. One that would look like the first line of an entry, with its stamp, is indented."""
    shown = [one_line(text, tabs=True) for text in texts]
    return "\n".join([*shown[:1], *(f"  {line}" if line.startswith("[") else line for line in shown[1:])])


def said(error: Exception) -> str:
    """What a library says of a failure, without what it quotes: that may be a value of the memory."""
    return _QUOTED.sub("…", str(error))


def is_one_line(text: str) -> bool:
    """Whether nothing of a text would be obeyed."""
    return one_line(text) == text


def is_utf_8(text: str) -> bool:
    """Whether a text has no halves of characters, as a name that is no UTF-8 has."""
    return text == text.encode(errors="replace").decode()


def as_json(data: object, *, indent: int | None = None, ascii_only: bool = False, **more: Any) -> str:
    """JSON in which nothing is obeyed, and that says the same."""
    return in_json(json.dumps(data, indent=indent, ensure_ascii=ascii_only, **more))


def in_json(text: str, *, one_line: bool = False) -> str:
    """JSON in which nothing is obeyed any more. `one_line`: nor what may stand between its words."""
    return text.translate(_IN_LINE_OF_JSON if one_line else _IN_JSON)
