"""`eyescream movie`: what a run's folder tells in pictures."""

from __future__ import annotations

from pathlib import Path

import click

from eyescream_py.system.commands import Command
from eyescream_py.system.numbers import Finite
from eyescream_py.system.places import PATH


@click.command(cls=Command, context_settings={"max_content_width": 100})
@click.argument("save", type=PATH, default="logs")
@click.option("--mp4", is_flag=True, help="Films as MP4 instead of GIF.")
@click.option(
    "--seconds", default=0.25, show_default=True, help="Time each grid is seen.",
    type=Finite(0.02, most=60),
)  # fmt: skip
def main(save: str, mp4: bool, seconds: float) -> None:
    """Make of the grids in SAVE/pictures a contact sheet over time and a film, and of
    SAVE/metrics.jsonl the loss curves. SAVE is a trainer's --save (default: logs).
    """
    from eyescream_py.results.story import tell

    for path in tell(Path(save), ".mp4" if mp4 else ".gif", seconds):
        click.echo(f"Written: {path}")
