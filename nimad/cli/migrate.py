"""`nimad migrate`."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option, run_options
from nimad.cli.settings import load
from nimad.config import Settings, command
from nimad.config.variables import explained
from nimad.errors import NimadError, RefusedError, StoppedError
from nimad.events import run as e
from nimad.events.result import Outcome, Result
from nimad.migration.run import migrate as run
from nimad.printable import as_json as as_json_line
from nimad.report.console.progress import Console, write
from nimad.report.console.streams import Matter, matters, say_at_once
from nimad.report.level import Level
from nimad.report.listener import JsonListener, PeopleListener, ServiceListener
from nimad.report.log.journal import STDOUT, Journal
from nimad.report.log.sinks import Log
from nimad.report.metrics import Metrics
from nimad.service.stop_event import StopEvent


@click.command()
@click.option("--batch-size", type=int, help="Number of nodes in the first batch.  [default: 500]")
@click.option(
    "--dry-run", is_flag=True, default=None, help="Read and convert every row, print the plan, write nothing."
)
@click.option("--start-offset", type=int, help="Resume from this offset; what the target holds is counted in any case.")
@click.option("--auto", is_flag=True, default=None, help="Do what OpenClaw's file asks for, or nothing.")
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file to make.  [default: ladybug.lbug or graph.ladybug beside the source]")
@click.option("--max-batch-size", type=int, help="Largest batch that a healthy run may grow to.")
@click.option(
    "--fixed-batch",
    is_flag=False,
    flag_value="",
    metavar="[N]",
    help="Hold the batch size instead of letting it grow; with N, at N nodes.",
)
@click.option("--replace", is_flag=True, default=None, help="Keep a file in the target's place as a dated backup.")
@click.option("--restart", is_flag=True, default=None, help="Throw an unfinished target away and start over.")
@click.option("--nodes-only", is_flag=True, default=None, help="Leave edges and turns out.")
@click.option("--verify", type=click.Choice(["full", "counts", "none"]), help="What to compare.  [default: full]")
@click.option("--strict", is_flag=True, default=None, help="Stop at the first row that would be quarantined.")
@run_options
def migrate(*, as_json: bool, config: Path | None, fixed_batch: str | None, user: str | None, **options: Any) -> None:
    """Migrate a NIMA memory from SQLite into LadybugDB.

    Run it again after any interruption: it goes on from what is counted in the target.
    """
    if fixed_batch is not None:
        options["fixed_batch"] = True
        if fixed_batch:
            options["batch_size"] = _whole_number(fixed_batch)
    with beginning(as_json=as_json):
        options = begin(options, config, user, writes=True)
        settings = load(options, os.environ, config)
    run_to_the_end(settings, as_json=as_json)


@contextmanager
def beginning(*, as_json: bool) -> Iterator[None]:
    """A failure before the run is an event, too."""
    try:
        yield
    except NimadError as error:
        if as_json:
            _say_failed(error, str(error))
        raise


def run_to_the_end(settings: Settings, *, as_json: bool) -> NoReturn:
    """Run with these settings, tell of it, and exit with the code that says how it ended."""
    matters(Matter.ANSWER if settings.dry_run else Matter.LOGGED)
    with _stop_on_signal() as stop, Console() as console:
        # Started as a unit, its stdout is the journal, which stamps lines by itself.
        journal = None if as_json else Journal.of_streams((STDOUT,))
        log = Log(settings.log_level, None if as_json or journal else console.say, settings.source, journal)
        metrics = Metrics(settings, log)
        try:
            result = run(settings, _both(_listener(console, log, as_json=as_json), metrics), stop)
        except NimadError as error:
            metrics.failed(error)
            _say_failure(error, settings, log, as_json=as_json)
            sys.exit(int(error.exit_code))
        else:
            _say_where_to_look(result, settings, log, as_json=as_json)
        finally:
            log.close()
    if result.outcome is Outcome.COMPLETE and sys.stdout.isatty() and not as_json:
        write(f"Search it with: {command.line('search', '--target', settings.target, 'some words')}")
    sys.exit(int(result.exit_code))


def _listener(console: Console, log: Log, *, as_json: bool) -> e.Listener:
    if as_json:
        return JsonListener(log)
    return ServiceListener(log) if log.journal else PeopleListener(console, log)


def _both(first: e.Listener, second: e.Listener) -> e.Listener:
    def tell(event: e.Event) -> None:
        first(event)
        second(event)

    return tell


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"{text!r} is not a number of nodes"
        raise click.BadParameter(message, click.get_current_context(), param_hint="'--fixed-batch'") from None


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into a stop that keeps everything counted."""
    # No plain Event: its lock is held for a moment in each wait, and a handler that sets it there waits for ever.
    stop = StopEvent(lambda: False, None)

    def ask(_: int, __: FrameType | None) -> None:
        first = not stop.stopped
        stop.set()
        if first:
            say_at_once("\nStopping: this batch may end, or is dropped after some seconds...\n")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What our caller had us ignore (`nohup`, a shell's `&`) stays ignored.
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_failure(error: NimadError, settings: Settings, log: Log, *, as_json: bool) -> None:
    text = explained(str(error), settings)
    if isinstance(error, StoppedError) and not isinstance(error, RefusedError):
        text = f"{text}. Go on with: {_again()}"
    if as_json:
        _say_failed(error, text)
    log.last(text)


def _say_where_to_look(result: Result, settings: Settings, log: Log, *, as_json: bool) -> None:
    if not result.quarantined and not result.quarantined_parts:
        return
    text = f"Look at them with: {command.line('quarantine', 'list', '--target', settings.target)}"
    log.keep(Level.INFO, text)
    if sys.stdout.isatty() and not as_json:
        write(text)


def _say_failed(error: NimadError, text: str) -> None:
    write(as_json_line({"event": "Failed", "message": text, "exit_code": int(error.exit_code)}))


def _again() -> str:
    """The command that goes on: what was typed, but for throwing away what is there."""
    words = [word for word in sys.argv[1:] if word != "--restart"]
    return command.line(*words)
