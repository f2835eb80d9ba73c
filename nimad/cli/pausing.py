"""`nimad pause` and `nimad resume`."""

import os
from pathlib import Path

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.config import command
from nimad.report.console.screen import say_line
from nimad.report.console.streams import Matter, matters
from nimad.state import pause_file
from nimad.state.paths import Files

_source_option = file_option("--source", "The SQLite memory, where its target is beside it.")
_target_option = file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/ladybug.lbug]")
_config_option = file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")


@click.command()
@_source_option
@_target_option
@_config_option
def pause(source: Path | None, target: Path | None, config: Path | None) -> None:
    """Hold a migration, the service's too, until `nimad resume`. It outlasts a restart."""
    files = _files(source, target, config)
    new = pause_file.pause(files)
    matters(Matter.DONE)
    say_line(f"{'Paused' if new else 'Paused already'}: {files.target}. A batch under way ends, nothing more begins.")
    if not any(os.path.lexists(path) for path in (files.target, files.staging, files.state)):
        say_line("No migration has begun there. If another one was meant, name it with --source or --target.")
    say_line(f"Go on with: {command.line('resume', '--target', files.target)}")


@click.command()
@_source_option
@_target_option
@_config_option
def resume(source: Path | None, target: Path | None, config: Path | None) -> None:
    """End what `nimad pause` began."""
    files = _files(source, target, config)
    was_paused = pause_file.resume(files)
    matters(Matter.DONE)
    say_line(f"{'Going on' if was_paused else 'It was not paused'}: {files.target}")


def _files(source: Path | None, target: Path | None, config: Path | None) -> Files:
    options = begin({"source": source, "target": target}, config, by="target")
    return Files(load(options, os.environ, config).target)
