"""The screen of `nimad doctor`: one line per finding, and the remedy under it."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from nimad.diagnostics.checks.finding import Finding, Verdict
from nimad.diagnostics.doctor import Report
from nimad.plural import number_of
from nimad.report.console.screen import ScreenLine, Style
from nimad.report.console.symbols import Symbols

WIDTH = 80
#: Columns before a finding's text: its sign, and what was looked at.
_NAME = 18
_STYLES: Mapping[Verdict, Style] = {
    Verdict.OK: Style.PLAIN,
    Verdict.WARNING: Style.WARNING,
    Verdict.PROBLEM: Style.BAD,
}


def lines(report: Report, signs: Symbols) -> Iterator[ScreenLine]:
    """The whole page; only paths and commands may be longer than 80 columns."""
    before = ""
    for finding in report.findings:
        name = "" if finding.check == before else finding.check
        yield from _finding(finding, name, signs)
        before = finding.check
    yield ScreenLine("")
    yield ScreenLine(*_summary(report, signs))


def _finding(finding: Finding, name: str, signs: Symbols) -> Iterator[ScreenLine]:
    style = _STYLES[finding.verdict]
    wrapped = textwrap.wrap(finding.text, WIDTH - _NAME, break_long_words=False, break_on_hyphens=False) or [""]
    sign = {Verdict.OK: signs.good, Verdict.WARNING: signs.warning, Verdict.PROBLEM: signs.bad}[finding.verdict]
    yield ScreenLine(f"{sign} {name:<{_NAME - 2}}{wrapped[0]}", style)
    for text in wrapped[1:]:
        yield ScreenLine(f"{'':<{_NAME}}{text}", style)
    for number, text in enumerate(finding.remedy.splitlines()):
        yield ScreenLine(f"{'':<{_NAME - 3}}{signs.arrow if number == 0 else ' '} {text}", Style.HEAD)


def _summary(report: Report, signs: Symbols) -> tuple[str, Style]:
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in report.findings)
    warnings = sum(finding.verdict is Verdict.WARNING for finding in report.findings)
    parts = [number_of(problems, "problem")] if problems else []
    parts += [number_of(warnings, "warning")] if warnings else []
    if not parts:
        return f"{signs.good} All is well", Style.GOOD
    return ", ".join(parts), _STYLES[report.verdict]


def to_json(report: Report) -> dict[str, Any]:
    return {
        "ok": report.verdict is Verdict.OK,
        "verdict": report.verdict.name.lower(),
        "findings": [
            {
                "check": finding.check,
                "verdict": finding.verdict.name.lower(),
                "text": finding.text,
                "remedy": finding.remedy or None,
            }
            for finding in report.findings
        ],
    }
