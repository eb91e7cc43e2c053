"""The commands that make training folders of real data."""

from __future__ import annotations

import click

from eyescream_py.system.commands import Command
from eyescream_py.system.numbers import Finite
from eyescream_py.system.places import PATH
from eyescream_py.system.voice import say


@click.command("prepare-depth", cls=Command)
@click.argument("ply_dir", type=PATH)
@click.argument("out_dir", type=PATH)
@click.argument("size", type=click.IntRange(8, 2048))
def prepare_depth(ply_dir: str, out_dir: str, size: int) -> None:
    """PLY meshes to depth maps of SIZE pixels."""
    from eyescream_py.image_model.prepare import meshes_to_depth_maps

    say(f"Wrote {meshes_to_depth_maps(ply_dir, out_dir, size)} depth maps to {out_dir}")


_SCALE = Finite(0.1, most=10)
_no_detect = click.option("--no-detect", is_flag=True, help="Cut the centre; look for no face.")


@click.command("prepare-faces", cls=Command)
@click.argument("in_dir", type=PATH)
@click.argument("out_dir", type=PATH)
@click.argument("scale", type=_SCALE)
@_no_detect
def prepare_faces(in_dir: str, out_dir: str, scale: float, no_detect: bool) -> None:
    """Photos with exactly one face to squares of SCALE times its box."""
    from eyescream_py.image_model.prepare import crop_faces

    say(f"Wrote {crop_faces(in_dir, out_dir, scale, not no_detect)} faces to {out_dir}")


@click.command("prepare-flatten", cls=Command)
@click.argument("in_dir", type=PATH)
@click.argument("out_dir", type=PATH)
def prepare_flatten(in_dir: str, out_dir: str) -> None:
    """LFW's folder per person to one flat folder."""
    from eyescream_py.image_model.prepare import flatten

    say(f"Wrote {flatten(in_dir, out_dir)} files to {out_dir}")


@click.command("prepare-nd", cls=Command)
@click.argument("in_dir", type=PATH)
@click.argument("out_dir", type=PATH)
@click.argument("scale", type=_SCALE)
@_no_detect
def prepare_nd(in_dir: str, out_dir: str, scale: float, no_detect: bool) -> None:
    """Notre Dame range images and photos to _D, _I pairs."""
    from eyescream_py.image_model.prepare import notre_dame_pairs

    say(f"Wrote {notre_dame_pairs(in_dir, out_dir, scale, not no_detect)} pairs to {out_dir}")


@click.command("prepare-pairs", cls=Command)
@click.argument("in_dir", type=PATH)
@click.argument("out_dir", type=PATH)
@click.argument("size", type=click.IntRange(8, 2048))
@click.option("--source", type=click.Choice(["edges", "soft-edges", "blur"]), default="edges",
              show_default=True, help="edges: thin lines (Canny); soft-edges: how steep the grey "
              "is (Sobel); blur: a blurred copy.")  # fmt: skip
@click.option("--channels", type=click.Choice(["1", "3"]), default="1", show_default=True)
def prepare_pairs(in_dir: str, out_dir: str, size: int, source: str, channels: str) -> None:
    """Photos to pairs of their edges (or a blurred copy) and themselves."""
    from eyescream_py.image_model.prepare import photo_pairs

    say(f"Wrote {photo_pairs(in_dir, out_dir, source, size, int(channels))} pairs to {out_dir}")


PREPARATIONS = (prepare_depth, prepare_faces, prepare_flatten, prepare_nd, prepare_pairs)
