"""`nimad index`."""

import os
from pathlib import Path
from typing import Any

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.config.settings import ENGINES
from nimad.migration.late_vector_index import index as make
from nimad.report.console.screen import say_line
from nimad.report.console.streams import Matter, matters


@click.command()
@file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/ladybug.lbug]")
@file_option("--extension", "The engine's VECTOR extension.  [default: where the engine installs it]")
@click.option("--engine", type=click.Choice(ENGINES), help="Package that writes.  [default: what every reader opens]")
@file_option("--engine-python", "Interpreter whose engine writes.  [default: this one, or a reader's]")
@file_option("--reader-python", "Interpreter of the agent, or 'none'.  [default: looked for]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
def index(target: Path | None, extension: Path | None, config: Path | None, **options: Any) -> None:
    """Make the vector index of a finished target, for which the engine's VECTOR extension has to be at hand.

    No other program may have the target open meanwhile. The file without the index is kept as a dated backup.
    """
    options = begin({"target": target, "vector_extension": extension, **options}, config, by="target")
    settings = load(options, os.environ, config)
    backup = make(settings)
    matters(Matter.DONE)
    say_line(f"Vector index: embedding_idx is made in {settings.target}, and answers")
    say_line(f"Kept what was there before as {backup}")
