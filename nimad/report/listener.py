"""Listeners: what turns a run's events into lines, or into JSON."""

import json
from pathlib import Path

from nimad.migration import events as e
from nimad.report.console import Console, write
from nimad.report.lines import heading, lines
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
        for level, text in lines(event):
            self._log.write(level, text)


class JsonListener:
    """Each event as one JSON line on stdout; the lines for people go to the log file alone."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, event: e.Event) -> None:
        _open_log(self._log, event)
        write(json.dumps(event.to_json(), ensure_ascii=False, default=str))
        for level, text in lines(event):
            self._log.write(level, text)


def _open_log(log: Log, event: e.Event) -> None:
    if isinstance(event, e.Started):
        log.open(Path(event.log_file))
