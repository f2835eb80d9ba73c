"""What docs/VALUES.md says that a value of the memory's own columns becomes, written down without nimad's code.

>>> becomes("memory_nodes", "is_ghost", "false", dimension=8)
Became(value=False, aside=True)
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from support.memories import DEFAULTS

#: Columns whose NULL stays one, although the agent's own tables have a default.
UNFILLED = {"recall_count"}
#: A text that SQLite would read as a number, the whole of it.
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Became:
    """What the target has, and whether the value itself is in quarantine."""

    value: Any
    aside: bool = False


def becomes(table: str, column: str, value: Any, *, dimension: int) -> Became:
    """What a value of SQLite becomes. Text that is no UTF-8 comes as `Raw`. `dimension`: floats of an embedding.

    Embeddings in another form than floats of 32 bits are none here.
    """
    default = DEFAULTS.get(column) if table == "memory_nodes" and column not in UNFILLED else None
    if value is None:
        return Became(default)
    if column == "embedding":
        is_one = type(value) is bytes and len(value) == 4 * dimension
        return Became(value) if is_one else Became(None, aside=True)
    return RULES[table][column](value) or Became(default, aside=True)


def dimension(embeddings: Iterable[Any]) -> int:
    """Floats in the commonest of them, and of two equally common ones in the larger."""
    counts = Counter(len(value) // 4 for value in embeddings if type(value) is bytes and value and len(value) % 4 == 0)
    return max(counts, key=lambda floats: (counts[floats], floats), default=512)


def integer(value: Any) -> int | None:
    """The integer of 64 bits that a value says, if it says one."""
    number = _number(value)
    if number is None or not -(2**63) <= number < 2**63 or number != number.to_integral_value():
        return None
    return int(number)


def _integer(value: Any) -> Became | None:
    whole = integer(value)
    return None if whole is None else Became(whole)


def _moment(value: Any) -> Became | None:
    if whole := _integer(value):
        return whole
    number = _number(value)
    if number is not None and -(2**63) <= number < 2**63:
        return Became(math.trunc(number), aside=True)
    return _iso(value) if isinstance(value, str) and ISO.fullmatch(value.strip()) else None


def _iso(text: str) -> Became | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
    milliseconds = abs(since) // timedelta(milliseconds=1)
    return Became(-milliseconds if since < timedelta(0) else milliseconds, aside=True)


def _float(value: Any) -> Became | None:
    if isinstance(value, float):
        return Became(value)
    number = _number(value)
    if number is None:
        return None
    nearest = float(number)
    is_whole = number == number.to_integral_value()
    return None if math.isinf(nearest) or (is_whole and Decimal(nearest) != number) else Became(nearest)


def _flag(value: Any) -> Became | None:
    number = _number(value)
    return Became(bool(number)) if number in (0, 1) else None


def _text(value: Any) -> Became:
    if isinstance(value, str):
        return Became(value)
    if not isinstance(value, bytes):
        return Became(repr(value))
    readable = value.decode(errors="replace")
    return Became(readable, aside=readable.encode() != value)


def _number(value: Any) -> Decimal | None:
    """The number that a value is, exactly."""
    if isinstance(value, (int, float)):
        return Decimal(value)
    return Decimal(value.strip()) if isinstance(value, str) and NUMBER.fullmatch(value) else None


Rule = Callable[[Any], Became | None]
TEXTS = ("layer", "text", "summary", "who", "affect_json", "session_key", "conversation_id", "turn_id", "created_at")
RULES: Mapping[str, Mapping[str, Rule]] = {
    "memory_nodes": {
        **dict.fromkeys((*TEXTS, "memory_type", "emotions", "themes", "source_agent", "model"), _text),
        **dict.fromkeys(("fe_score", "strength", "decay_rate", "importance"), _float),
        **dict.fromkeys(("last_accessed", "dismissal_count", "recall_count"), _integer),
        "timestamp": _moment,
        "is_ghost": _flag,
    },
    "memory_edges": {"relation": _text, "weight": _float, "created_at": _text},
    "memory_turns": {"turn_id": _text, "timestamp": _moment, "affect_json": _text, "created_at": _text},
}
