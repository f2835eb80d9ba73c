"""Messages about leftovers and their removal."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from nimad.cleanup.leftovers import Leftover
from nimad.cleanup.removal import DAY_S, Cleaning
from nimad.config import command
from nimad.plural import number_of

_MB, _KB = 10**6, 10**3


def lines(found: Cleaning) -> Iterator[str]:
    """What goes and what stays, as it is printed."""
    if not found.going and not found.staying:
        yield f"Nothing is left over beside {found.target}"
        return
    if found.going:
        verb = "Removed" if found.applied else "Can go"
        yield f"{verb}: {_sum(found.going)}"
        yield from map(_line, found.going)
    if found.staying:
        yield f"{'Kept' if found.applied else 'Stays'}: {_sum(found.staying)}"
        yield from map(_line, found.staying)
    if found.applied:
        return
    yield ""
    yield "Nothing was removed"
    if found.going:
        words = ["--source", found.source, "--target", found.target, "--older-than", f"{found.days:g}"]
        words += ["--newest"] if found.newest else []
        yield f"Remove what can go: {command.line('clean', *words, '--apply')}"


def _line(each: Leftover) -> str:
    age = number_of(int(each.age_s // DAY_S), "day")
    return f"  {size(each.bytes):>9} {age:>9}  {each.path}: {each.kind} ({each.reason})"


def _sum(listed: Sequence[Leftover]) -> str:
    return f"{number_of(len(listed), 'leftover')}, {size(sum(each.bytes for each in listed))}"


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / _MB:.1f} MB" if count >= _MB else f"{count / _KB:.1f} kB"


def to_json(found: Cleaning) -> dict[str, Any]:
    """The same for programs."""
    return {
        **asdict(found),
        "source": str(found.source),
        "target": str(found.target),
        "going": [_facts(each) for each in found.going],
        "staying": [_facts(each) for each in found.staying],
    }


def _facts(each: Leftover) -> dict[str, Any]:
    return {**asdict(each), "path": str(each.path), "pieces": [str(piece) for piece in each.pieces]}
