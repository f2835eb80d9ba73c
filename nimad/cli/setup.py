"""`nimad setup`."""

from pathlib import Path

import click

from nimad.cli.options import file_option
from nimad.config import command
from nimad.errors import UsageError
from nimad.host.rights import account_of
from nimad.report.console.screen import say_line
from nimad.report.console.streams import Matter, matters
from nimad.report.log.sinks import say_warning
from nimad.service.agent_scripts import FOLDER
from nimad.service.setup import NAME, WrittenUnits, set_up
from nimad.service.setup import undo as take_back


@click.command()
@click.option("--user", metavar="NAME", help="Whose memory the service migrates.")
@file_option("--source", "Her SQLite memory.  [default: her ~/.nima/memory/graph.sqlite]")
@click.option("--no-drop-ins", is_flag=True, help="Leave nima-core's own migrate_to_ladybug.py and health_check.py be.")
@click.option("--undo", is_flag=True, help="Take away what setup wrote.")
@click.option("--root", type=click.Path(path_type=Path), default="/", hidden=True)
def setup(*, user: str | None, source: Path | None, no_drop_ins: bool, undo: bool, root: Path) -> None:
    """Set the systemd service up for a user. As root.

    It checks what the service will need, and writes whom it runs for into /etc/systemd/system. The scripts that
    nima-core's start-up hook and its guide call become nimad's, where its plugin is installed; what was there is kept.
    """
    if undo:
        written = take_back(root)
        matters(Matter.DONE)
        _say_undone(written)
        return
    if user is None:
        raise UsageError("setup has to know whose memory it is: sudo nimad setup --user NAME")
    account = account_of(user)
    written = set_up(account, source, command.program(), root, drop_ins=not no_drop_ins)
    matters(Matter.DONE)
    _say_done(written)
    if not written.scripts and not no_drop_ins:
        say_line(f"No drop-ins: there is no {Path(account.home) / FOLDER} of {account.name}'s")
    _say_away_at_boot(written)


def _say_done(written: WrittenUnits) -> None:
    for path in written.changed:
        say_line(f"Wrote {path}")
    for path in written.removed:
        say_line(f"Removed {path}")
    for path in written.kept:
        say_line(f"Kept what was there as {path}")
    _say_put_back(written)
    if not written.changed and not written.removed and not written.put_back:
        say_line("Set up already; nothing was changed")
    verb = "restart" if written.running else "enable --now"
    say_line(f"Go on with: sudo systemctl {verb} {NAME}")
    say_line(f"Watch it with: journalctl -fu {NAME}")


def _say_away_at_boot(written: WrittenUnits) -> None:
    for place, line in written.away_at_boot.items():
        waits = f"systemd does not mount {place} when the machine starts: the service then waits until it is mounted"
        say_warning(f"{waits}. Add this line to /etc/fstab, and run setup again:" if line else waits)
        if line:
            say_line(line)


def _say_undone(written: WrittenUnits) -> None:
    for path in written.removed:
        say_line(f"Removed {path}")
    _say_put_back(written)
    if not written.removed and not written.put_back:
        say_line("Nothing that setup wrote is here; nothing was changed")
    if written.running:
        say_line(f"{NAME} still runs, as it was set up; stop it with: sudo systemctl disable --now {NAME}")
    elif written.enabled:
        say_line(f"{NAME} is still enabled; leave it out of the next start with: sudo systemctl disable {NAME}")


def _say_put_back(written: WrittenUnits) -> None:
    for path in written.put_back:
        say_line(f"Put back {path}")
