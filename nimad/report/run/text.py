"""The run report as plain text."""

import unicodedata
from collections.abc import Iterator

from nimad.report.run import tables
from nimad.report.run.model import RunReport, headline
from nimad.report.run.tables import ReportTable

#: Characters that a cell may have; only the last one of a row has more room.
_CELL, _LAST_CELL = 60, 160


def text(told: RunReport) -> str:
    """The whole account, in lines."""
    lines = [f"{_plain(headline(told))}.", ""]
    for table in (
        tables.moved(told),
        tables.layers(told),
        tables.quarantine(told),
        tables.verification(told),
        tables.processes(told),
        tables.failures(told),
        tables.batches(told),
        tables.phases(told),
        tables.memory(told),
        tables.before_and_after(told),
        tables.facts(told),
    ):
        lines += _table(table)
    return "\n".join(lines).rstrip() + "\n"


def _table(table: ReportTable) -> Iterator[str]:
    if not table.rows and not table.note:
        return
    yield table.title
    rows = [[_cut(cell, last=place == len(row) - 1) for place, cell in enumerate(row)] for row in table.rows]
    if rows and any(table.headings):
        rows.insert(0, list(table.headings))
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))] if rows else []
    for row in rows:
        cells = [
            cell.rjust(width) if table.is_figure(column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
    if table.note:
        yield f"  {_plain(table.note)}"
    yield ""


def _cut(cell: str, *, last: bool) -> str:
    most, cell = _LAST_CELL if last else _CELL, _plain(cell)
    return cell if len(cell) <= most else f"{cell[: most - 1]}…"


def _plain(text: str) -> str:
    """Text that moves no cursor and turns no line around."""
    return "".join(sign if unicodedata.category(sign)[0] != "C" else "�" for sign in " ".join(text.split()))
