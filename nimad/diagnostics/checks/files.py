"""The files: settings, source, target, permissions, locks and leftovers."""

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from nimad.cleanup.leftovers import leftovers, open_files
from nimad.compare import source_identity
from nimad.config import command
from nimad.config.toml_file import DEFAULT_FILE
from nimad.diagnostics import processes
from nimad.diagnostics.checks.finding import READING_S, Examined, Finding, ok, problem, warning
from nimad.diagnostics.migration_status import MigrationStatus
from nimad.diagnostics.status import status
from nimad.host import rights
from nimad.host.deadline import within
from nimad.plural import number_of
from nimad.source import quick_check
from nimad.source.sqlite_file import SourceFile
from nimad.state import names as target_names
from nimad.state.paths import check_folder, check_names

_MB = 1_000_000
_DAY_S = 86_400.0
#: Days after which a leftover is old: as `nimad clean` has it.
_OLD_DAYS = 30


def settings(examined: Examined) -> Iterator[Finding]:
    mine = examined.settings
    file = mine.config_file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    yield ok("settings", f"source by: {mine.origin('source')}; " + (f"{file} is read" if file else "no settings file"))
    for note in mine.notes:
        yield ok("settings", note)


def source(examined: Examined) -> Iterator[Finding]:
    """Whether the memory is there and whole."""
    path, found = examined.settings.source, examined.survey  # raises with what is wrong
    with within(READING_S) as stop:
        damage = quick_check.damage(SourceFile(path, stop), found.schema)
    owner = rights.name_of(path.stat().st_uid)
    what = f"{path}: {found.nodes.rows:,} memories, {found.size / _MB:,.1f} MB, of {owner}"
    if damage:
        yield problem("source", f"{what}, damaged ({damage[0]})", command.migrate(examined.settings, "--dry-run"))
    else:
        yield ok("source", f"{what}, whole")


def permissions(examined: Examined) -> Iterator[Finding]:
    """Whether a run by this user could write what it has to."""
    mine = examined.settings
    if not mine.source.exists() and not mine.target.parent.exists():
        return  # the source has a line of its own
    check_folder(mine.target)  # each raises with what is wrong, and the way out
    if mine.source.exists():
        check_names(examined.files, mine.source, mine.log_file)
        rights.check_own(mine.source, mine.target, mine.log_file)
    closed = [path for path in (examined.files.state, mine.log_file) if path.exists() and not os.access(path, os.W_OK)]
    if closed:
        owner = rights.name_of(closed[0].stat().st_uid)
        what = f"{closed[0]} cannot be written by this user: it is {owner}'s"
        yield problem("permissions", what, f"ls -l {shlex.quote(str(closed[0]))}")
    else:
        yield ok("permissions", f"{rights.name_of(os.geteuid())} may write in {mine.target.parent}")


def names(examined: Examined) -> Iterator[Finding]:
    """Whether every name leads to the target, and nothing lies beside one that is not read with it."""
    mine, files = examined.settings, examined.files
    remarks = target_names.remarks(mine, files)
    for remark in remarks:
        yield warning("names", remark.text, remark.remedy)
    for log in target_names.unread(files):
        yield warning("names", log)
    if not remarks and files.target.exists():
        links = [str(name) for name in files.links if files.is_link(name)]
        yield ok("names", f"{files.target}" + (f"; to it leads {', '.join(links)}" if links else ""))


def locks(examined: Examined) -> Iterator[Finding]:
    """Who works on the target, and who has the two files open."""
    lock, mine = examined.files.lock, examined.settings
    if holder := processes.holder_of_lock(lock):
        yield ok("locks", f"{holder.shown} is at work on the target (PID {holder.pid})")
    elif lock.exists():
        yield ok("locks", f"{lock} was left by a run that was killed; nobody holds it, and the next run takes it")
    else:
        yield ok("locks", "nobody is at work on the target")
    holders = open_files()
    for path in (mine.source, mine.target):
        if not path.exists():
            continue
        status_ = path.stat()
        if (pid := holders.get((status_.st_dev, status_.st_ino))) and (found := processes.process(pid)):
            yield ok("locks", f"{path.name} is open in PID {pid}: {found.shown}")


def migration(examined: Examined) -> Iterator[Finding]:
    """How it stands, as `nimad status` has it."""
    found = status(examined.settings)
    remedy = found.steps[0][1] if found.steps else ""
    moved, another = source_identity.remark(examined.settings.source, examined.files)
    if another:
        yield problem("migration", another, command.migrate(examined.settings, "--replace"))
        return
    if moved:
        yield warning("migration", moved, command.migrate(examined.settings))
        return
    if found.stand in (MigrationStatus.INTERRUPTED, MigrationStatus.FAILED, MigrationStatus.GONE):
        yield warning("migration", f"{found.stand}, and nobody is at it", remedy)
    elif found.stand is MigrationStatus.PAUSED:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(examined.files.paused.lstat().st_mtime))
        yield warning("migration", f"paused since {since}", remedy)
    elif found.quarantined or found.lacking:
        yield warning("migration", f"{found.stand}, with {found.quarantined + found.lacking} set aside", remedy)
    else:
        yield ok("migration", str(found.stand))


def left_over(examined: Examined) -> Iterator[Finding]:
    """What may go by now, and what is kept."""
    mine, found = examined.settings, leftovers(examined.settings)
    old = [each for each in found if each.may_go and each.age_s > _OLD_DAYS * _DAY_S]
    if old:
        size = sum(each.bytes for each in old) / _MB
        what = f"{len(old)} older than {_OLD_DAYS} days that may go, {size:,.0f} MB, such as {old[0].path.name}"
        clean = command.line("clean", "--source", mine.source, "--target", mine.target)
        yield warning("leftovers", what, clean)
    elif found:
        yield ok("leftovers", f"{len(found)}, {sum(each.bytes for each in found) / _MB:,.0f} MB, none to go yet")
    else:
        yield ok("leftovers", "none")
    yield from _dated_logs(mine.log_file)


def _dated_logs(log: Path) -> Iterator[Finding]:
    """Logs that logrotate, or a person, set aside."""
    if not log.parent.is_dir():
        return
    dated = [each for each in log.parent.iterdir() if each.name.startswith(f"{log.name}.") and each.is_file()]
    if dated:
        size = sum(each.stat().st_size for each in dated) / _MB
        logs = number_of(len(dated), "older log")
        yield ok("leftovers", f"{logs}, {size:,.1f} MB, such as {shlex.quote(min(dated).name)}")
