"""`nimad index`."""

import os
from pathlib import Path

import click

from nimad.cli.options import file_option
from nimad.config import load
from nimad.migration.indexing import index as make


@click.command()
@file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/graph.ladybug]")
@file_option("--extension", "The engine's VECTOR extension.  [default: where the engine installs it]")
@file_option("--reader-python", "Interpreter of the agent, or 'none'.  [default: looked for]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
def index(target: Path | None, extension: Path | None, reader_python: Path | None, config: Path | None) -> None:
    """Make the vector index of a finished target, for which the engine's VECTOR extension has to be at hand.

    No other program may have the target open meanwhile. The file without the index is kept as a dated backup.
    """
    options = {"target": target, "vector_extension": extension, "reader_python": reader_python}
    settings = load(options, os.environ, config)
    backup = make(settings)
    click.echo(f"Vector index: embedding_idx is made in {settings.target}, and answers")
    click.echo(f"Kept what was there before as {backup}")
