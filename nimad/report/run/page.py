"""The run report as one HTML page: no script, nothing fetched."""

from collections.abc import Sequence
from typing import Final

from nimad._version import VERSION
from nimad.report import formatting
from nimad.report.run import pictures, tables
from nimad.report.run.html import Html, joined, tag
from nimad.report.run.model import COMPLETE, RunReport, headline
from nimad.report.run.style import STYLE
from nimad.report.run.tables import ReportTable

#: A browser that obeys it fetches nothing, whatever stood in the page.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

#: Columns besides the first one that a telephone has no room for.
_MANY: Final = 6


def page(told: RunReport) -> str:
    """The whole page."""
    name = f"Migration of {told.source.rpartition('/')[2] or 'a memory'}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="robots", content="noindex"),
        tag("title", f"{name}: {told.outcome}"),
        tag("style", Html(STYLE)),
    )
    body = tag("body", tag("main", _top(told), *_sections(told)), _foot(told))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _top(told: RunReport) -> Html:
    good = told.outcome == COMPLETE
    word = ("Complete, some set aside" if told.aside_in_all else "Complete") if good else told.outcome.capitalize()
    kind = ("noted" if told.aside_in_all else "good") if good else "bad"
    when = formatting.moment(told.began) if told.began else ""
    cards = [
        tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", more) if more else None))
        for name, value, more in tables.cards(told)
    ]
    return tag(
        "header",
        tag("p", "NIMA memory · SQLite → LadybugDB", class_="kind"),
        tag("h1", tag("span", word, class_=f"badge {kind}"), " ", tag("span", when, class_="when")),
        tag("p", f"{headline(told)}.", class_="headline"),
        tag("dl", *cards, class_="cards"),
    )


def _sections(told: RunReport) -> Sequence[Html | None]:
    aside = tables.quarantine(told)
    return [
        _section(tables.moved(told), _table(tables.layers(told), level="h3")),
        _section(aside) if aside.rows or aside.note else None,
        _loading(told),
        _memory(told),
        _section(tables.verification(told)),
        _section(tables.before_and_after(told)),
        _section(tables.facts(told)),
    ]


def _loading(told: RunReport) -> Html:
    between = "What lies between the bars is starting, counting, compacting and waiting; its times stand under Phases."
    drawn = [pictures.timeline(told), tag("p", between, class_="note"), pictures.rates(told)] if told.spans else []
    none = None if told.spans else tag("p", "No record tells of its batches.", class_="note")
    parts = (tables.batches(told), tables.failures(told), tables.processes(told), tables.phases(told))
    return tag("section", tag("h2", "How it went"), drawn, none, *(_table(part, level="h3") for part in parts))


def _memory(told: RunReport) -> Html | None:
    table = tables.memory(told)
    if not table.rows:
        return None
    return tag("section", tag("h2", table.title), pictures.memory(told) if told.spans else None, _grid(table))


def _section(table: ReportTable, *more: Html | None) -> Html | None:
    if not table.rows and not table.note:
        return None
    return tag("section", _table(table), *more)


def _table(table: ReportTable, level: str = "h2") -> Html | None:
    if not table.rows and not table.note:
        return None
    note = tag("p", table.note, class_="note") if table.note else None
    return joined(tag(level, table.title), _grid(table) if table.rows else None, note)


def _grid(table: ReportTable) -> Html:
    """The table itself. One that is wider than a telephone is moved by itself, and not the page."""
    kinds = ["figure" if table.is_figure(column) else None for column in range(len(table.columns))]
    head = None
    if any(table.headings):
        cells = [
            tag("th", heading, scope="col", class_=kind) for heading, kind in zip(table.headings, kinds, strict=True)
        ]
        head = tag("thead", tag("tr", *cells))
    rows = []
    for row in table.rows:
        first, *others = row
        cells = [tag("td", cell, class_=kind) for cell, kind in zip(others, kinds[1:], strict=True)]
        rows.append(tag("tr", tag("th", first, scope="row", class_=kinds[0]), *cells))
    body = tag("table", tag("caption", table.title), head, tag("tbody", *rows))
    kind = _kind(table, with_head=head is not None)
    scrolls = {"tabindex": "0", "role": "region", "aria_label": table.title} if kind == "batches" else {}
    return tag("div", body, class_=f"wide {kind}".rstrip(), **scrolls)


def _kind(table: ReportTable, *, with_head: bool) -> str:
    """What the style has to know: a few figures, names and values, more than a telephone has room for, or sentences."""
    columns = range(1, len(table.columns))
    if len(columns) >= _MANY:
        return "batches"
    if all(table.is_figure(column) for column in columns):
        return "few" if with_head else "few pairs"
    return "prose" if with_head else "pairs"


def _foot(told: RunReport) -> Html:
    return tag(
        "footer",
        tag("p", f"Made by nimad {VERSION}, {formatting.moment(told.made)}."),
        tag("p", "This page holds counts, ids, names and reasons, and no text of a memory. It fetches nothing."),
    )
