"""`nimad sample`."""

from pathlib import Path

import click

from nimad.host import rights
from nimad.report.console.screen import say_line
from nimad.report.console.streams import Matter, matters
from nimad.sample import SHAPES, Sample, write_sample


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--nodes", default=9_770, show_default=True, help="How many memories.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same memory.")
@click.option("--shape", type=click.Choice(SHAPES), default="3.1", show_default=True, help="Release of nima-core.")
@click.option("--dimension", default=384, show_default=True, help="Floats in an embedding.")
def sample(path: Path, nodes: int, seed: int, shape: str, dimension: int) -> None:
    """Write a sample NIMA memory with edges, turns and embeddings."""
    rights.become_owner(path.absolute())
    counts = write_sample(path, Sample(nodes=nodes, seed=seed, shape=shape, dimension=dimension))
    matters(Matter.DONE)
    rows = f"{counts.nodes} nodes, {counts.edges} edges, {counts.turns} turns"
    say_line(f"Wrote {path}: {rows}, {counts.bytes / 1e6:.0f} MB")
