"""`nimad run`."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from nimad import __version__
from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import explain, load
from nimad.config import Settings
from nimad.config.settings import AFTERS, TRIGGERS
from nimad.errors import ExitCode, NimadError
from nimad.events.run import Event
from nimad.report.console.progress import write
from nimad.report.console.streams import Matter, matters
from nimad.report.listener import ServiceListener
from nimad.report.log.journal import Journal
from nimad.report.log.sinks import Log
from nimad.report.messages.status_line import status
from nimad.report.metrics import Metrics
from nimad.service import disks
from nimad.service.daemon import Daemon
from nimad.service.systemd_notifier import Manager

#: What systemd is told of a failure, by exit code: a number of errno(3).
_ERRNO: Final[Mapping[ExitCode, int]] = {
    ExitCode.USAGE: errno.EINVAL,
    ExitCode.ENGINE: errno.ELIBACC,
    ExitCode.CANNOT_WRITE: errno.EROFS,
    ExitCode.IO_ERROR: errno.EIO,
    ExitCode.INTERRUPTED: errno.EAGAIN,
    ExitCode.DIFFERENCE: errno.EILSEQ,
    ExitCode.NOT_ALLOWED: errno.EACCES,
    ExitCode.CONFIGURATION: errno.EINVAL,
}


@click.command()
@click.option("--trigger", type=click.Choice(TRIGGERS), help="When to migrate.  [default: start]")
@click.option("--after", type=click.Choice(AFTERS), help="What to do then.  [default: follow]")
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file to make.  [default: ladybug.lbug or graph.ladybug beside the source]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--log-level", help="DEBUG, INFO, WARN or ERROR.  [default: INFO]")
@click.option("--user", metavar="NAME", help="As root: run as this user, before any file is opened.")
def run(config: Path | None, user: str | None, **options: Any) -> None:
    """Migrate as a service: what systemd starts, and what brings late arrivals for as long as it runs.

    SIGTERM stops it, and everything counted is kept. SIGHUP has it read its configuration again.
    """
    matters(Matter.LOGGED)
    manager, given = Manager(), options

    def settings() -> Settings:
        return load(given, os.environ, config)

    try:
        given = begin(options, config, user, writes=True)
        first = settings()
    except NimadError as error:
        manager.failed(str(error), _ERRNO[error.exit_code])
        raise
    journal = Journal.of_streams()
    log = Log(first.log_level, None if journal else write, first.source, journal)
    try:
        code = _serve(settings, manager, log, Metrics(first, log))
    finally:
        log.close()
    sys.exit(int(code))


def _serve(settings: Callable[[], Settings], manager: Manager, log: Log, metrics: Metrics) -> ExitCode:
    words = ServiceListener(log)

    def listener(event: Event) -> None:
        words(event)
        metrics(event)
        if (text := status(event)) is not None:
            manager.status(text)

    def on_reload(fresh: Settings) -> None:
        log.set_level(fresh.log_level)
        metrics.use(fresh)

    try:
        return Daemon(settings, manager, listener, on_reload, disks.named(os.environ)).run()
    except NimadError as error:
        explain(error, click.get_current_context().find_root())
        metrics.failed(error)
        manager.failed(str(error), _ERRNO[error.exit_code])
        log.last(str(error))
        return error.exit_code
    except Exception as error:  # a service has nobody to see a traceback but the journal
        manager.failed(f"a bug of nimad {__version__}: {error!r}", errno.EFAULT)
        text = f"{traceback.format_exc()}This is a bug of nimad {__version__}; please report it"
        log.exception(text)
        return ExitCode.INTERNAL
