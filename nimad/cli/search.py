"""`nimad search`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.cli.unread_log import say_unread
from nimad.diagnostics.search import search as ask
from nimad.report.console.screen import say_line, show_json

#: Characters of a memory that a line shows.
SHOWN_CHARS = 100


@click.command()
@click.argument("text", required=False, default="")
@file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/ladybug.lbug]")
@click.option(
    "--like", type=click.IntRange(-(2**63), 2**63 - 1), metavar="ID", help="Memories nearest in meaning to this one."
)
@click.option("--limit", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Hits as JSON lines.")
def search(text: str, target: Path | None, like: int | None, limit: int, *, as_json: bool) -> None:
    """Ask a migrated memory: newest first by the exact TEXT, or nearest first by a memory's embedding with --like."""
    if not text and like is None:
        raise click.UsageError("Name some TEXT, or a memory with --like ID.")
    if text and like is not None:
        raise click.UsageError("Name some TEXT or --like ID, not both.")
    settings = load(begin({"target": target}, by="target"), os.environ)
    hits = ask(settings.target, text, like, limit)
    if not hits and not as_json:
        say_line("Nothing found.")
    for hit in hits:
        if as_json:
            show_json(hit, indent=None)
            continue
        nearness = f"{hit['nearness']:.3f}  " if "nearness" in hit else ""
        line = f"{nearness}{hit['id']:>7}  {hit['layer'] or '-':<14} {hit['who'] or '-':<10} {_window(hit, text)}"
        say_line(line)  # whoever wrote to the agent commands no terminal
    say_unread(settings)


def _window(hit: Mapping[str, Any], question: str) -> str:
    """The part of a memory that shows why it was found, in one line."""
    text = hit["text"] or hit["summary"] or ""
    if question not in text:
        text = hit["summary"] or text
    start = max(0, text.find(question) - SHOWN_CHARS // 3) if question else 0
    shown = " ".join(text[start : start + SHOWN_CHARS].split())
    return f"{'…' if start else ''}{shown}{'…' if start + SHOWN_CHARS < len(text) else ''}"
