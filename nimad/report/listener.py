"""Listeners: what turns a run's events into lines, or into JSON."""

import json
from pathlib import Path

from nimad.migration import events as e
from nimad.report.console import Console, write
from nimad.report.lines import Level, heading, lines
from nimad.report.log import Log


class PeopleListener:
    """Lines on the console and in the log file."""

    def __init__(self, console: Console, log: Log) -> None:
        self._console, self._log = console, log

    def __call__(self, event: e.Event) -> None:
        _open_log(self._log, event)
        self._console.show(event)
        title = heading(event)
        if title:
            self._console.title(title)
        _log_lines(self._log, event)


class JsonListener:
    """Each event as one JSON line on stdout; the lines for people go to the log file alone."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, event: e.Event) -> None:
        _open_log(self._log, event)
        write(json.dumps(event.to_json(), ensure_ascii=False, default=str))
        _log_lines(self._log, event)


def _log_lines(log: Log, event: e.Event) -> None:
    for level, text in lines(event):
        log.write(level, text)
    if isinstance(event, e.BatchFailed) and event.stack:  # for whoever looks into it later, not for the console
        log.to_file_only(Level.WARN, f"What the worker said last:\n{event.stack}")


def _open_log(log: Log, event: e.Event) -> None:
    if isinstance(event, e.Started):
        log.open(Path(event.log_file))
