"""Formats of sizes, durations, rates and times."""

import time

_KB, _MB, _GB = 10**3, 10**6, 10**9
_MINUTE, _HOUR = 60, 3_600
NOTHING = "–"


def count(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def size(number: float | None) -> str:
    """Bytes, in the unit that leaves one to three digits before the point."""
    if number is None:
        return NOTHING
    for unit, name in ((_GB, "GB"), (_MB, "MB"), (_KB, "kB")):
        if number >= unit:
            value = number / unit
            return f"{value:.1f} {name}" if value < 100 else f"{value:.0f} {name}"  # noqa: PLR2004
    return f"{number:.0f} B"


def duration(seconds: float | None) -> str:
    """`380 ms`, `4.2 s`, `42 s`, `4 min 2 s`, `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        milliseconds = seconds * 1_000
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 or not seconds else f"{milliseconds:.1f} ms"  # noqa: PLR2004
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"
    return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"


def rate(rows_per_s: float) -> str:
    return f"{rows_per_s:,.0f}/s" if rows_per_s >= 10 else f"{rows_per_s:.1f}/s"  # noqa: PLR2004


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else NOTHING


def moment(seconds: float | None) -> str:
    """Local time, with its distance from UTC: a page is read elsewhere."""
    return NOTHING if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
