"""A picture of growth: what each contestant takes against the number of nodes, both by powers of ten, as SVG."""

import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 150, 20, 44
_COLOURS = ("#1f6feb", "#8b949e", "#d1242f", "#bf8700", "#8250df", "#1a7f37")

Points = Sequence[tuple[float, float]]


def growth(lines: Mapping[str, Points], unit: str) -> str:
    """One line for each contestant, its name at its end."""
    points = [point for line in lines.values() for point in line]
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<path d="M{x:.0f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.0f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:,g}</text>')
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path d="M{_LEFT} {y:.0f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{tick:,g}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">nodes</text>')
    parts.append(f'<text x="{_LEFT - 6}" y="12" text-anchor="end">{unit}</text>')
    for (name, line), colour in zip(lines.items(), _COLOURS * len(lines), strict=False):
        ordered = sorted(line)
        path = "L".join(f"{across.at(x):.1f} {up.at(y):.1f}" for x, y in ordered)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3" fill="{colour}"/>' for x, y in ordered]
        x, y = ordered[-1]
        parts.append(f'<text x="{across.at(x) + 8:.0f}" y="{up.at(y) + 4:.0f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """From values to places, by their logarithm."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self._low, self._high = math.log10(min(values)), math.log10(max(values))
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / ((self._high - self._low) or 1.0)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten within."""
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        return [tick for tick in found if self._low <= math.log10(tick) <= self._high]
