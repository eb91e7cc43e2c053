"""The commands that make training folders of real data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from eyescream_py.image_model.flags import apply
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.numbers import Finite
from eyescream_py.system.places import PATH
from eyescream_py.system.voice import say

PREPARATIONS: list[click.Command] = []
_size = click.argument("size", type=click.IntRange(8, 2048))
_cut = apply([
    click.argument("scale", type=Finite(0.1, most=10)),
    click.option("--no-detect", is_flag=True, help="Cut the centre; look for no face."),
])  # fmt: skip


def _preparation(
    name: str, things: str, source: str = "IN_DIR"
) -> Callable[[Callable[..., int]], click.Command]:
    """The command `name SOURCE OUT_DIR ...` of a function that returns how many `things` it wrote;
    it joins PREPARATIONS.
    """

    def decorate(write: Callable[..., int]) -> click.Command:
        @click.command(name, cls=Command)
        @click.argument("in_dir", type=PATH, metavar=source)
        @click.argument("out_dir", type=PATH)
        @functools.wraps(write)
        def command(in_dir: str, out_dir: str, **values: Any) -> None:
            count = write(in_dir, out_dir, **values)
            if not count:
                raise UserError(f"IN: no {things} could be made of the files in {in_dir}")
            say(f"Wrote {count} {things} to {out_dir}")

        PREPARATIONS.append(command)
        return command

    return decorate


@_preparation("prepare-depth", "depth maps", "PLY_DIR")
@_size
def prepare_depth(in_dir: str, out_dir: str, size: int) -> int:
    """PLY meshes to depth maps of SIZE pixels."""
    from eyescream_py.image_model.prepare import meshes_to_depth_maps

    return meshes_to_depth_maps(in_dir, out_dir, size)


@_preparation("prepare-faces", "faces")
@_cut
def prepare_faces(in_dir: str, out_dir: str, scale: float, no_detect: bool) -> int:
    """Photos with exactly one face to squares of SCALE times its box."""
    from eyescream_py.image_model.prepare import crop_faces

    return crop_faces(in_dir, out_dir, scale, not no_detect)


@_preparation("prepare-flatten", "files")
def prepare_flatten(in_dir: str, out_dir: str) -> int:
    """LFW's folder per person to one flat folder."""
    from eyescream_py.image_model.prepare import flatten

    return flatten(in_dir, out_dir)


@_preparation("prepare-nd", "pairs")
@_cut
def prepare_nd(in_dir: str, out_dir: str, scale: float, no_detect: bool) -> int:
    """Notre Dame range images and photos to _D, _I pairs."""
    from eyescream_py.image_model.prepare import notre_dame_pairs

    return notre_dame_pairs(in_dir, out_dir, scale, not no_detect)


@_preparation("prepare-pairs", "pairs")
@_size
@click.option("--source", type=click.Choice(["edges", "soft-edges", "blur", "side-by-side"]),
              default="edges", show_default=True, help="edges: thin lines (Canny); soft-edges: how "
              "steep the grey is (Sobel); blur: a blurred copy; side-by-side: pictures of pix2pix, "
              "source left, target right.")  # fmt: skip
@click.option("--channels", type=click.Choice(["1", "3"]), default="1", show_default=True)
def prepare_pairs(in_dir: str, out_dir: str, size: int, source: str, channels: str) -> int:
    """Photos to pairs of their edges (or a blurred copy) and themselves."""
    from eyescream_py.image_model.prepare import photo_pairs

    return photo_pairs(in_dir, out_dir, source, size, int(channels))
