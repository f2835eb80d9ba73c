"""Listeners that turn events into lines or JSON."""

import os
from pathlib import Path

from nimad.events import run as e
from nimad.events import service as s
from nimad.events import sync as f
from nimad.printable import as_json
from nimad.report.console import connection
from nimad.report.console.progress import Console, write
from nimad.report.level import Level
from nimad.report.log.journal_fields import JournalFields, passes
from nimad.report.log.sinks import Log
from nimad.report.messages.run_messages import heading, lines


class PeopleListener:
    """Lines on the console and in the log file."""

    def __init__(self, console: Console, log: Log) -> None:
        self._console, self._log = console, log

    def __call__(self, event: e.Event) -> None:
        _keep_log(self._log, event)
        self._console.show(event)
        title = heading(event)
        if title:
            self._console.title(title)
        _log_lines(self._log, event)
        if isinstance(event, e.Started) and connection.ends_with_us(os.environ):
            self._log.write(Level.INFO, connection.HINT)


class JsonListener:
    """Each event as one JSON line on stdout; the lines for people go to the log file alone."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, event: e.Event) -> None:
        _keep_log(self._log, event)
        write(as_json(event.to_json(), default=str))
        _log_lines(self._log, event)


#: After these nothing is done for a while.
_RESTS = (s.Waiting, s.Watching, s.Looked, s.Postponed, f.LeftAlone, e.Paused)


class ServiceListener:
    """Lines for the journal, with where the run is, or for stdout; and in the log file."""

    def __init__(self, log: Log) -> None:
        self._log, self._position = log, JournalFields()

    def __call__(self, event: e.Event) -> None:
        if isinstance(event, s.Followed):
            self._follow(event)
        position = self._position.after(event)
        self._log.fields = position.fields()
        _keep_log(self._log, event)
        _log_lines(self._log, event)
        if passes(event):
            self._log.fields = self._position.fields()
        else:
            self._position = position
        if isinstance(event, _RESTS):
            self._log.rest()

    def _follow(self, event: s.Followed) -> None:
        """What comes now is of no run, and the log file goes on from the one before, if there was one."""
        self._position = JournalFields(phase="following")
        self._log.begin(Path(event.source))
        self._log.open(Path(event.log_file))


def _log_lines(log: Log, event: e.Event) -> None:
    for level, text in lines(event):
        log.write(level, text)
    if isinstance(event, e.BatchFailed) and event.stack:  # for whoever looks into it later, not for the console
        log.keep(Level.WARN, "What the worker said last:", event.stack)


def _keep_log(log: Log, event: e.Event) -> None:
    """The log file goes on from run to run, under the name that each one gives it."""
    if isinstance(event, e.Analyzing):
        log.begin(Path(event.source))
    elif isinstance(event, (e.Started, f.CaughtUp)) and event.log_file:  # tried again where it was lost
        log.open(Path(event.log_file))
