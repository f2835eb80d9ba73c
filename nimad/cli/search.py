"""`nimad search`."""

import json
import os
from pathlib import Path

import click

from nimad.cli.options import file_option
from nimad.config import load
from nimad.migration.asking import search as ask


@click.command()
@click.argument("text", required=False, default="")
@file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/graph.ladybug]")
@click.option(
    "--like", type=click.IntRange(-(2**63), 2**63 - 1), metavar="ID", help="Memories nearest in meaning to this one."
)
@click.option("--limit", type=click.IntRange(0), default=5, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Hits as JSON lines.")
def search(text: str, target: Path | None, like: int | None, limit: int, *, as_json: bool) -> None:
    """Ask a migrated memory: by TEXT, or by the embedding of a memory with --like."""
    if not text and like is None:
        raise click.UsageError("Name some TEXT, or a memory with --like ID.")
    settings = load({"target": target}, os.environ)
    hits = ask(settings.target, text, like, limit)
    if not hits and not as_json:
        click.echo("Nothing found.")
    for hit in hits:
        if as_json:
            click.echo(json.dumps(hit, ensure_ascii=False))
            continue
        nearness = f"{hit['nearness']:.3f}  " if "nearness" in hit else ""
        click.echo(
            f"{nearness}{hit['id']:>7}  {hit['layer'] or '-':<14} {hit['who'] or '-':<10} {_one_line(hit['text'])}"
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())
