"""The pictures of a run report, as inline SVG.

Across, everything is in percent and up and down in pixels, so that a picture fits any width and its letters stay
readable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nimad.plural import number_of
from nimad.report import formatting
from nimad.report.run.html import Html, joined, tag
from nimad.report.run.model import RunReport, Span
from nimad.report.run.tables import NOUNS
from nimad.report.run.tables import joined as together

#: Pixels: of the whole picture, over the highest bar, under the axis, and of the least bar.
_HEIGHT, _ABOVE, _BELOW, _LEAST = 196, 22, 24, 1.5
_AXIS = _HEIGHT - _BELOW
#: Bars that a picture has at most; more of them are less than a pixel wide on a telephone.
BARS = 160
#: Percent: of the narrowest bar, and from which width on a strip has its name in it.
_NARROWEST, _NAMED = 0.35, 14.0
#: Lines across, at most.
_GRID = 4
_CROSS = "M-3.5-3.5 3.5 3.5M3.5-3.5-3.5 3.5"


@dataclass(frozen=True)
class _Scale:
    """The picture's measures: seconds across, and the value at the top."""

    seconds: float
    top: float

    def x(self, seconds: float) -> float:
        return 100.0 * min(seconds, self.seconds) / self.seconds if self.seconds else 0.0

    def y(self, value: float) -> float:
        return _AXIS - (_AXIS - _ABOVE) * min(value, self.top) / self.top if self.top else _AXIS


def timeline(told: RunReport) -> Html:
    """Batches as bars: as wide as they took, as high as they had rows; with the tries that failed."""
    spans = together(told.spans, BARS)
    scale = _Scale(told.seconds, max((span.batch.rows / span.batch.batches for span in spans), default=0))
    marks = [_mark(scale, each.at_s, f"Try {each.attempt} failed") for each in told.failures]
    batches = number_of(sum(span.batch.batches for span in spans), "batch", "batches")
    failed = number_of(told.failures_in_all, "try", "tries") if told.failures_in_all else "no try"
    text = f"{batches} in {formatting.duration(told.seconds)}, of up to {scale.top:,.0f} rows each; {failed} failed."
    body = [
        *_strips(told, scale),
        *_grid(scale),
        *(_bar(scale, span, span.batch.rows / span.batch.batches, _rows) for span in spans),
        *_labels(scale, lambda value: f"{value:,.0f} rows"),
        *marks,
    ]
    return _figure("timeline", "Time line: rows of each batch", text, scale, body, told)


def rates(told: RunReport) -> Html:
    """The same bars, as high as rows were brought in a second."""
    spans = together(told.spans, BARS)
    scale = _Scale(told.seconds, max((span.batch.rate for span in spans), default=0))
    slowest = min((span.batch.rate for span in spans), default=0)
    text = f"Between {slowest:,.0f} and {scale.top:,.0f}."
    body = [
        *_strips(told, scale, named=False),
        *_grid(scale),
        *(_bar(scale, span, span.batch.rate, _rate) for span in spans),
        *_labels(scale, lambda value: f"{value:,.0f}/s"),
    ]
    return _figure("rates", "Rate: rows a second", text, scale, body, told)


def memory(told: RunReport) -> Html:
    """The same bars, as high as the worker took memory, with what the plan reckoned with."""
    spans = together(told.spans, BARS)
    planned = told.plan.get("worker_bytes")
    planned = planned if isinstance(planned, int) and planned > 0 else 0
    scale = _Scale(told.seconds, max(told.peak_rss, planned))
    text = f"The largest worker took {formatting.size(told.peak_rss)}"
    text += f"; the plan reckoned with up to {formatting.size(planned)}." if planned else "."
    body = [
        *_grid(scale),
        *_verifying(told, scale),
        *(_bar(scale, span, span.batch.peak_rss, _memory) for span in spans),
        *_labels(scale, formatting.size),
    ]
    if planned:
        y = scale.y(planned)
        body += [tag("line", class_="plan", x1="0", x2="100%", y1=_px(y), y2=_px(y))]
        body += [
            tag("text", f"plan {formatting.size(planned)}", class_="plan", x="100%", y=_px(y - 5), text_anchor="end")
        ]
    return _figure("memory", "Memory of the workers", text, scale, body, told)


def _figure(name: str, title: str, text: str, scale: _Scale, body: Sequence[Html], told: RunReport) -> Html:
    picture = tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", text, id=f"{name}-text"),
        *body,
        _axis(scale),
        width="100%",
        height=_HEIGHT,
        role="img",
        aria_labelledby=f"{name}-title {name}-text",
    )
    caption = tag("figcaption", tag("strong", title), " ", tag("span", text))
    return tag("figure", caption, picture, _legend(told) if name == "timeline" else None)


def _legend(told: RunReport) -> Html:
    """For all pictures: they have the same colours."""
    tables = dict.fromkeys(span.batch.table for span in told.spans)
    keys = [tag("li", tag("i", class_=_kind(table)), NOUNS.get(table, table)) for table in tables]
    if told.verifying:
        keys.append(tag("li", tag("i", class_="verifying"), "Comparing"))
    if told.failures:
        keys.append(tag("li", tag("i", "×", class_="failed"), "A try that failed"))
    if len(told.processes) > 1:
        keys.append(tag("li", tag("i", "┊"), "Another process went on"))
    return tag("ul", *keys, class_="legend", aria_hidden="true")


def _kind(table: str) -> str:
    return table.removeprefix("memory_") if table in NOUNS else "other"


def _bar(scale: _Scale, span: Span, value: float, tell: Callable[[Span], str]) -> Html:
    x, y = scale.x(span.began_s), min(scale.y(value), _AXIS - _LEAST)
    width = max(_NARROWEST, scale.x(span.ended_s) - x)
    return tag(
        "rect",
        tag("title", tell(span)),
        class_=_kind(span.batch.table),
        x=_percent(min(x, 100 - width)),
        y=_px(y),
        width=_percent(width),
        height=_px(_AXIS - y),
    )


def _name(span: Span) -> str:
    batch = span.batch
    noun = NOUNS.get(batch.table, batch.table)
    first = batch.number - batch.batches + 1
    return f"{noun}, batch {batch.number}" if batch.batches == 1 else f"{noun}, batches {first}–{batch.number}"


def _rows(span: Span) -> str:
    batch = span.batch
    tries = f", {batch.attempts} tries" if batch.attempts > 1 else ""
    return f"{_name(span)}: {formatting.count(batch.rows)} rows in {formatting.duration(batch.seconds)}{tries}"


def _rate(span: Span) -> str:
    return f"{_name(span)}: {formatting.rate(span.batch.rate)}"


def _memory(span: Span) -> str:
    return f"{_name(span)}: {formatting.size(span.batch.peak_rss)}"


def _strips(told: RunReport, scale: _Scale, *, named: bool = True) -> list[Html]:
    """What went on besides loading: the comparing, and where one process ended and another went on."""
    found = []
    for began, ended in told.verifying:
        x, width = scale.x(began), scale.x(ended) - scale.x(began)
        place = {"x": _percent(x), "y": _px(_ABOVE), "width": _percent(max(width, _NARROWEST))}
        found.append(tag("rect", class_="verifying", height=_px(_AXIS - _ABOVE), **place))
        if named and width > _NAMED:
            middle = {"x": _percent(x + width / 2), "y": _px(_ABOVE + 16)}
            found.append(tag("text", "comparing", class_="inside", text_anchor="middle", **middle))
    for process in told.processes[1:]:
        at, title = _percent(scale.x(process.at_s)), tag("title", "gone on")
        found.append(tag("line", title, class_="again", x1=at, x2=at, y1=_px(_ABOVE - 8), y2=_px(_AXIS)))
    return found


def _verifying(told: RunReport, scale: _Scale) -> list[Html]:
    """The workers that compared, in the picture of memory."""
    peak = told.peaks.get("verifying", 0)
    found = []
    for began, ended in told.verifying if peak else ():
        x, y = scale.x(began), scale.y(peak)
        width = max(_NARROWEST, scale.x(ended) - x)
        title = tag("title", f"Comparing: {formatting.size(peak)}")
        place = {"x": _percent(x), "y": _px(y), "width": _percent(width), "height": _px(_AXIS - y)}
        found.append(tag("rect", title, class_="verifying", **place))
    return found


def _mark(scale: _Scale, seconds: float, text: str) -> Html:
    sign = tag("path", d=_CROSS, class_="failed")
    return tag("svg", tag("title", text), sign, x=_percent(scale.x(seconds)), y=_px(_ABOVE - 10), overflow="visible")


def _grid(scale: _Scale) -> list[Html]:
    heights = [_px(scale.y(value)) for value in _ticks(scale.top)]
    return [tag("line", class_="grid", x1="0", x2="100%", y1=y, y2=y) for y in heights]


def _labels(scale: _Scale, words: Callable[[float], str]) -> list[Html]:
    """Over the bars, or one would hide them."""
    return [tag("text", words(value), x="0", y=_px(scale.y(value) - 4)) for value in _ticks(scale.top)]


def _ticks(top: float) -> list[float]:
    """Round numbers up to the top, few of them."""
    if top <= 0:
        return []
    step = 10.0 ** len(str(int(top)))
    for part in (5, 2, 2.5, 2) * 20:
        if top / step >= _GRID - 2:
            break
        step /= part
    return [step * number for number in range(1, int(top / step) + 1)][:_GRID]


def _axis(scale: _Scale) -> Html:
    y = _px(_AXIS + 17)
    return joined(
        tag("line", class_="axis", x1="0", x2="100%", y1=_px(_AXIS), y2=_px(_AXIS)),
        tag("text", "0 s", x="0", y=y),
        tag("text", formatting.duration(scale.seconds / 2), x="50%", y=y, text_anchor="middle"),
        tag("text", formatting.duration(scale.seconds), x="100%", y=y, text_anchor="end"),
    )


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _px(value: float) -> str:
    return f"{value:.1f}"
